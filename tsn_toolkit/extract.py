"""From the store to one task's own small dense module, proved to answer like the masked one.

A task's numbers go into a fresh copy of the user's class; dead units are then physically removed. Removal is accepted only when the masked and the
shrunk module agree within 1e-5 relative to max|y|, once with the task's own numbers and once with randomised norms, biases and free parameters.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from tsn_toolkit.contracts import ExtractedModel, ModelGraph, TaskWeights
from tsn_toolkit.filling import fill_
from tsn_toolkit.free_parameters import free_parameters
from tsn_toolkit.graph.proof import prove_equal
from tsn_toolkit.graph.shrink import shrink
from tsn_toolkit.graph.units import mask_units_
from tsn_toolkit.model_loading import set_head
from tsn_toolkit.plan.macs import macs_after


def masked_model(factory: Callable[[], nn.Module], graph: ModelGraph, weights: TaskWeights) -> nn.Module:
    """The user's full module holding one task; dead units answer exactly 0."""
    model = factory().eval()
    set_head(model, graph.head, len(weights.classes), generator=torch.Generator().manual_seed(0))  # or it would draw from the global generator
    fill_(model, weights, graph.head)
    mask_units_(model, graph, weights.unit_masks)
    return model


def extract(factory: Callable[[], nn.Module], graph: ModelGraph, weights: TaskWeights) -> ExtractedModel:
    """One task as a small dense module.

    Args:
        factory: makes the user's pristine module.
        graph: of the pristine module.
        weights: the task as the store decodes it.

    Raises:
        GraphError: masked and shrunk modules do not agree; nothing is returned.
    """
    masked = masked_model(factory, graph, weights)
    small = shrink(masked, graph, weights.unit_masks)
    error = prove_equal(masked, small.model, graph.inputs or graph.input_shape, seed=0)
    _prove_with_random_norms(masked, graph, weights)
    q, scale, kept = {}, {}, {}
    layers = {**weights.q, graph.head: weights.head.codes}
    scales = {**weights.scale, graph.head: weights.head.scale}
    for name, full in layers.items():
        slots = small.slots[f"{name}.weight"].numpy()
        q[name], kept[name] = full.reshape(-1)[slots], slots
        rows = slots.reshape(slots.shape[0], -1)[:, 0] // int(np.prod(full.shape[1:]))
        scale[name] = scales[name][rows]
    macs, dense_macs = _count_macs(graph, weights, small.model.get_submodule(graph.head).weight.shape[1])
    return ExtractedModel(
        task=weights.name,
        model=small.model,
        q=q,
        scale=scale,
        macs=macs,
        dense_macs=dense_macs,
        proof_error=error,
        slots=kept,
        numbers_below=graph.numbers_below,
    )


def _count_macs(graph: ModelGraph, weights: TaskWeights, kept_features: int) -> tuple[int, int]:
    """Multiply-accumulates of one example, (shrunk, full), with the task's own number of classes in place of the graph's."""
    head = graph.layer(graph.head)
    positions = head.macs // int(np.prod(head.shape))
    more_classes = (len(weights.classes) - head.shape[0]) * positions
    features = int(np.prod(head.shape[1:]))
    return macs_after(graph, weights.unit_masks) + more_classes * kept_features, graph.macs + more_classes * features


def _prove_with_random_norms(masked: nn.Module, graph: ModelGraph, weights: TaskWeights) -> None:
    """The same proof with norms, biases and free parameters drawn at random, so that an accidental zero cannot hide a wrong removal."""
    model = copy.deepcopy(masked)
    generator = torch.Generator().manual_seed(1)
    for parameter in free_parameters(model).values():
        parameter.data.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats:
            module.running_mean.copy_(0.2 * torch.randn(module.running_mean.shape, generator=generator))
            module.running_var.copy_(0.5 + torch.rand(module.running_var.shape, generator=generator))
        bias = getattr(module, "bias", None)
        if isinstance(bias, nn.Parameter):
            bias.data.copy_(0.2 * torch.randn(bias.shape, generator=generator))
    mask_units_(model, graph, weights.unit_masks)
    prove_equal(model, shrink(model, graph, weights.unit_masks).model, graph.inputs or graph.input_shape, seed=1)
