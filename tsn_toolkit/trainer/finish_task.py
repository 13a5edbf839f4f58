"""The end of every store strategy: after post-training steps a small module becomes a TaskResult of what the store holds, ranges calibrated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tsn_toolkit.contracts import ShrunkModel, TaskResult
from tsn_toolkit.data.normalisation import normalise
from tsn_toolkit.parts.finish import freeze_head_bias_, freeze_vectors_, scatter_all, to_integers_
from tsn_toolkit.parts.plane_weight import plane_wrapped
from tsn_toolkit.parts.slots import full_sizes, gather_frozen
from tsn_toolkit.parts.subnet_weight import wrapped
from tsn_toolkit.trainer.context import TaskContext
from tsn_toolkit.trainer.free_parameters import freeze_own_, scatter_free
from tsn_toolkit.trainer.loop import evaluate, to_device
from tsn_toolkit.trainer.norms import reestimate_norms_
from tsn_toolkit.trainer.post_training import PostTrainer


def finish_task(
    small: ShrunkModel,
    full_model: nn.Module,
    unit_masks: Mapping[str, NDArray[np.bool_]],
    context: TaskContext,
    *,
    strategy: str,
    calibration_batches: int,
    reestimate: bool,
) -> TaskResult:
    """Integers, norms, biases, free parameters, head and activation ranges of a learned task, at full shape.

    Args:
        small: the learned module; layers without a wrapper are the parent's as they are. Changed in place.
        full_model: the full module it was shrunk from, for shapes.
        unit_masks: which units stayed.
        context: the task.
        strategy: registry name of the strategy.
        calibration_batches: training batches for norms and ranges.
        reestimate: average the norm statistics anew under the final integers.
    """
    model, cpu = small.model.cpu().eval(), torch.device("cpu")
    own = {name for name, _, _ in (*wrapped(model), *plane_wrapped(model))}
    shared = {}
    for name, frozen in context.inherited.items():
        if name not in own:
            q, _, scale = gather_frozen(frozen, small.slots[f"{name}.weight"])
            assert scale is not None, "a shared layer has an owner"
            shared[name] = (q.numpy().astype(np.int8), scale.numpy())
    vectors = context.precision.vectors
    free = freeze_own_(model, small.slots, context)  # first: what is calibrated and judged below computes with them
    inputs = calibration_inputs(context, calibration_batches)
    steps = PostTrainer(context, inputs if reestimate else ())
    steps.improve_codes_(model)
    integers = to_integers_(model, context.graph, shared, head_bits=context.precision.head_bits, max_code=context.plan.max_code, precision=vectors)
    if reestimate:
        reestimate_norms_(model, inputs)
    steps.improve_vectors_(model)
    norms, biases = freeze_vectors_(model, context.graph.head, vectors)
    integers = replace(integers, head=freeze_head_bias_(model, context.graph.head, integers.head, vectors))
    loss, accuracy = evaluate(model, context.data.validation, context.data, cpu)
    ranges = steps.choose_ranges(model, integers, inputs)
    steps.finish()
    sizes = full_sizes(full_model.state_dict())
    layers, norms, biases, head = scatter_all(integers, norms, biases, small.slots, sizes, context.graph.head)
    return TaskResult(
        name=context.data.name,
        parent=context.parent,
        isolation="exact",
        strategy=strategy,
        classes=context.data.classes,
        unit_masks=unit_masks,
        layers=layers,
        norms=norms,
        biases=biases,
        head=head,
        ranges=ranges,
        validation={"accuracy": accuracy, "loss": loss},
        vector_precision=vectors,
        free_parameters=scatter_free(free, small.slots, sizes),
    )


def calibration_inputs(context: TaskContext, count: int) -> list[torch.Tensor]:
    """At most `count` batches of normalised training inputs on the CPU, spread over the split.

    A short last batch is left out unless it is the only one: an average over batches would give it the weight of a whole one, and a batch of one
    example has no variance.
    """
    data, size = context.data, context.settings.batch_size
    batches = max(1, len(data.train) // size)
    starts = range(0, batches * size, size * max(1, batches // count))[:count]
    return [to_device(normalise(data.train.x[start : start + size], data.mean, data.std), torch.device("cpu")) for start in starts]
