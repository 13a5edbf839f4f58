"""Importance criteria: one file each, all with one signature.

    score(model, graph, batches, loss) -> {group name: float64 array (size,)}
    weight_scores(model, graph, batches, loss) -> {layer name: float64 array, shape of the weight}

    model: the full model; it is never changed.
    graph: traced from it (or from one whose head has another number of classes).
    batches: sequence of (x, y), x (n, ...) ready for the model, y int64 (n,); criteria that look at weights alone ignore it.
    loss: callable(logits, y) -> scalar, mean over the batch; ignored likewise.

Every group that is not frozen gets one score per unit, every codable layer one per weight; larger = more worth keeping. `bn_scale` has no form for
weights. The registry name is the file's stem. `ranking` makes masks of scores.
"""
