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
from collections.abc import Callable, Mapping
from dataclasses import dataclass

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
        GraphError: if a producer gives something other than a tensor, as nn.MultiheadAttention does, or the same for all examples.
    """
    require_batches(batches, "taylor")
    gated = copy.deepcopy(model).eval()
    gates: list[_Gate] = []
    norm_of = {layer.name: layer.norm for layer in graph.layers}
    groups = prunable_groups(graph)
    gated_by = {producer: norm_of.get(producer) or producer for group in groups for producer in group.producers}
    axes = _example_axes(gated, gated_by, batches[0][0])
    for name, place in gated_by.items():
        gated.get_submodule(place).register_forward_hook(_gate(gates, name, gated.get_submodule(name), axes[name]))
    totals = {group.name: np.zeros(group.size) for group in groups}
    examples = 0
    for x, y in batches:
        gates.clear()
        with torch.enable_grad():
            value = loss(gated(x), y) * len(x)
            gradients = torch.autograd.grad(value, [gate.factors for gate in gates], allow_unused=True)
        per_layer: dict[str, torch.Tensor] = {}
        for gate, gradient in zip(gates, gradients, strict=True):
            if gradient is not None:
                per_layer[gate.layer] = per_layer.get(gate.layer, 0) + gate.by_example(gradient.double(), len(x))
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


@dataclass(frozen=True)
class _Gate:
    """Ones that multiply what a layer gives, of its shape along examples and units and 1 elsewhere."""

    layer: str
    factors: torch.Tensor
    example_dim: int
    unit_dim: int

    def by_example(self, gradient: torch.Tensor, examples: int) -> torch.Tensor:
        """(examples, units). Entries of one example lie together, as windows of an image do."""
        units = gradient.shape[self.unit_dim]
        return gradient.movedim((self.example_dim, self.unit_dim), (0, 1)).reshape(examples, -1, units).sum(1)


def _gate(gates: list[_Gate], name: str, producer: nn.Module, example_dim: int) -> Callable[..., torch.Tensor]:
    """A forward hook that multiplies an output by a gate whose gradient is wanted."""

    def multiply(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        unit_dim = 1 if isinstance(producer, _ConvNd) else output.ndim - 1
        shape = [size if dim in {example_dim, unit_dim} else 1 for dim, size in enumerate(output.shape)]
        factors = torch.ones(shape, dtype=output.dtype, device=output.device, requires_grad=True)
        gates.append(_Gate(name, factors, example_dim, unit_dim))
        return output * factors

    return multiply


def _example_axes(model: nn.Module, gated_by: Mapping[str, str], x: torch.Tensor) -> dict[str, int]:
    """Along which dimension of what is gated the examples lie, by producer: the first whose length changes with their number.

    Raises:
        GraphError: a producer gives no tensor, or the same for all examples.
    """
    shapes: list[dict[str, torch.Size]] = []

    def note(name: str) -> Callable[..., None]:
        def look(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            if not isinstance(output, torch.Tensor):
                kind = type(model.get_submodule(name)).__name__
                raise GraphError(f"`taylor` gates what a layer gives, and `{name}` ({kind}) gives no tensor of units. Use `fisher` or `magnitude`.")
            shapes[-1][name] = output.shape

        return look

    hooks = [model.get_submodule(place).register_forward_hook(note(name)) for name, place in gated_by.items()]
    with torch.no_grad():
        for count in (1, 2):
            shapes.append({})
            model(torch.cat([x[:1]] * count))
    for hook in hooks:
        hook.remove()
    axes = {}
    for name, one in shapes[0].items():
        changing = [dim for dim, (few, more) in enumerate(zip(one, shapes[1][name], strict=True)) if few != more]
        if not changing:
            raise GraphError(f"`taylor` asks each example about a unit, and `{name}` gives the same for all. Use `fisher` or `magnitude`.")
        axes[name] = changing[0]
    return {**dict.fromkeys(gated_by, 0), **axes}  # a layer that does not run is gated nowhere


def _squared(model: nn.Module, group: UnitGroup, per_layer: dict[str, torch.Tensor], examples: int) -> NDArray[np.float64]:
    """Sum over the batch of the squared gradient of each unit's shared gate."""
    total = np.zeros((group.size, examples))
    for member, _ in producer_weights(model, group):
        name = member.parameter.removesuffix(".weight")
        if name in per_layer:
            ours = member.unit >= 0
            np.add.at(total, member.unit[ours], per_layer[name].T.cpu().numpy()[ours])
    squares: NDArray[np.float64] = (total**2).sum(axis=1)
    return squares
