"""First-order Taylor on unit gates (Molchanov et al., "Importance Estimation for Neural Network Pruning", 2019).

    s_u = mean over examples of (dL/dg_u)^2 at g_u = 1

g_u multiplies what every producer of the group gives for unit u, after the norm that directly follows the producer, so dL/dg_u is the sum over
producers and positions of activation times gradient: to first order, the change of one example's loss when the unit goes.

Deviation: the paper's gate sits on one layer; here one gate is shared by all producers of a coupled group, as they can only go together.

One by one, weights score the first-order change of the mean loss over all examples when the weight goes (Molchanov et al., "Pruning Convolutional
Neural Networks for Resource Efficient Inference", 2017, on single weights):

    s_w = |w * dL/dw|

The square of single gradients, averaged, would be `fisher` up to a factor. In a trained network the mean gradient is small, and this form noisy.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.modules.conv import _ConvNd

from tsn_toolkit.contracts import ModelGraph, UnitGroup
from tsn_toolkit.errors import GraphError
from tsn_toolkit.importance._per_unit import producer_weights, prunable_groups
from tsn_toolkit.importance._per_weight import Batches, Loss, as_scores, batch_gradients, layer_weights, quiet_copy, require_batches


def score(model: nn.Module, graph: ModelGraph, batches: Batches, loss: Loss) -> dict[str, NDArray[np.float64]]:
    """Mean squared gate gradient per unit, with the model in eval mode.

    Args:
        model: not changed; a copy runs.
        graph: of the model.
        batches: (x, y) pairs, at least one.
        loss: mean over the batch; gradients are scaled back to single examples.

    Raises:
        DataError: if there is no batch.
        GraphError: if a producer gives something other than a tensor, as nn.MultiheadAttention does.
    """
    require_batches(batches, "taylor")
    gated = copy.deepcopy(model).eval()
    gates: dict[str, list[torch.Tensor]] = {}
    norm_of = {layer.name: layer.norm for layer in graph.layers}
    groups = prunable_groups(graph)
    for name in dict.fromkeys(producer for group in groups for producer in group.producers):
        gated.get_submodule(norm_of.get(name) or name).register_forward_hook(_gate(gates, name, gated.get_submodule(name)))
    totals = {group.name: np.zeros(group.size) for group in groups}
    examples = 0
    for x, y in batches:
        gates.clear()
        with torch.enable_grad():
            value = loss(gated(x), y) * len(x)
            flat = [(name, gate) for name, calls in gates.items() for gate in calls]
            gradients = torch.autograd.grad(value, [gate for _, gate in flat], allow_unused=True)
        per_layer: dict[str, torch.Tensor] = {}
        for (name, _), gradient in zip(flat, gradients, strict=True):
            if gradient is not None:
                per_layer[name] = per_layer.get(name, 0) + gradient.double()
        for group in groups:
            totals[group.name] += _squared(gated, group, per_layer, len(x))
        examples += len(x)
    return {name: total / examples for name, total in totals.items()}


def weight_scores(model: nn.Module, graph: ModelGraph, batches: Batches, loss: Loss) -> dict[str, NDArray[np.float64]]:
    """|w times the gradient of the mean loss over all examples| per weight, with the model in eval mode; arguments and errors as in `score`."""
    require_batches(batches, "taylor")
    quiet = quiet_copy(model)
    weights = layer_weights(quiet, graph)
    totals = {name: torch.zeros_like(weight, dtype=torch.float64) for name, weight in weights.items()}
    examples = 0
    for count, gradients in batch_gradients(quiet, weights, batches, loss):
        examples += count
        for name, gradient in gradients.items():
            totals[name] += count * gradient
    return {name: as_scores((weight.detach().double() * totals[name] / examples).abs()) for name, weight in weights.items()}


def _gate(gates: dict[str, list[torch.Tensor]], name: str, producer: nn.Module) -> Callable[..., torch.Tensor]:
    """A forward hook that multiplies an output by ones of shape (n, units) whose gradient is wanted."""

    def multiply(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        if not isinstance(output, torch.Tensor):
            kind = type(producer).__name__
            raise GraphError(f"`taylor` gates what a layer gives, and `{name}` ({kind}) gives no tensor of units. Use `fisher` or `magnitude`.")
        channel = 1 if isinstance(producer, _ConvNd) else output.ndim - 1
        shape = [size if dim in {0, channel} else 1 for dim, size in enumerate(output.shape)]
        gate = torch.ones(shape, dtype=output.dtype, device=output.device, requires_grad=True)
        gates.setdefault(name, []).append(gate)
        return output * gate

    return multiply


def _squared(model: nn.Module, group: UnitGroup, per_layer: dict[str, torch.Tensor], examples: int) -> NDArray[np.float64]:
    """Sum over the batch of the squared gradient of each unit's shared gate."""
    total = np.zeros((group.size, examples))
    for member, _ in producer_weights(model, group):
        name = member.parameter.removesuffix(".weight")
        if name in per_layer:
            ours = member.unit >= 0
            np.add.at(total, member.unit[ours], per_layer[name].reshape(examples, -1).T.cpu().numpy()[ours])
    squares: NDArray[np.float64] = (total**2).sum(axis=1)
    return squares
