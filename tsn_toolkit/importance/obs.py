"""Optimal brain surgeon, layer by layer: the error of a layer's output when a weight goes and the rest of its row makes up for it.

Hassibi and Stork, "Second Order Derivatives for Network Pruning", 1992; per layer and at scale: Frantar and Alistarh, "SparseGPT", ICML 2023.

    H   = sum over positions, mean over examples, of x x^T, plus 0.01 * mean(diag) on the diagonal;   x: what one output of the layer reads
    s_w = w^2 / [H^-1]_jj for the weight w of input j,    0 where input j is never active
    s_u = sum of s_w over the weights that make unit u (its producers') and over those that read it

s_w is the least growth of the squared error of the layer's output, as removing w forces it. A unit whose outgoing weights alone are zero keeps what
its incoming ones score.

Deviations: scores only, nothing is updated and no weight is removed in between; the diagonal of H^-1 is that of the whole layer, not of the weights
that a column order leaves. Memory is bounded: a batch gives at most `MAX_ROWS` positions, drawn at random under a fixed seed and weighted up, and
inputs beyond `MAX_COLUMNS` form blocks between which H is taken as zero. A grouped convolution has one H per group of channels; an embedding reads
one-hot rows, so its H is diagonal.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional
from torch.nn.modules.conv import _ConvNd

from tsn_toolkit.contracts import ModelGraph
from tsn_toolkit.errors import GraphError
from tsn_toolkit.graph.layers import is_transposed_linear
from tsn_toolkit.importance._inputs import input_energy, visit_inputs
from tsn_toolkit.importance._per_unit import producer_weights, prunable_groups, readers, unit_sums
from tsn_toolkit.importance._per_weight import Batches, Loss, as_scores, layer_weights, require_batches

DAMPING = 0.01
"""Added to the diagonal, relative to its mean."""
MAX_ROWS = 2048
"""Positions of one batch that enter H."""
MAX_COLUMNS = 1024
"""Inputs whose interactions are kept: H takes at most 8 KiB per input."""


def score(model: nn.Module, graph: ModelGraph, batches: Batches, loss: Loss | None = None) -> dict[str, NDArray[np.float64]]:
    """Output error of the layers on both sides of a unit, with the model in eval mode; `loss` is not used.

    Raises:
        DataError: if there is no batch.
        GraphError: if a layer's inputs cannot be seen, a layer with a transposed weight, a recurrent or an attention module makes or reads
            units, or nothing reads a group.
    """
    require_batches(batches, "obs")
    sides = {}
    for group in prunable_groups(graph):
        made = [(member, _layer_of(member.parameter)) for member, _ in producer_weights(model, group)]
        sides[group.name] = [*made, *readers(model, group)]
    errors = _errors(model, (name for members in sides.values() for _, name in members), batches)
    return unit_sums(graph, lambda group: ((member, errors[name]) for member, name in sides[group.name]))


def weight_scores(model: nn.Module, graph: ModelGraph, batches: Batches, loss: Loss | None = None) -> dict[str, NDArray[np.float64]]:
    """Output error per weight, with the model in eval mode; `loss` is not used.

    Raises:
        DataError: if there is no batch.
        GraphError: if a layer's inputs cannot be seen.
    """
    require_batches(batches, "obs")
    return {name: as_scores(values) for name, values in _errors(model, layer_weights(model, graph), batches).items()}


def _layer_of(parameter: str) -> str:
    """The layer whose weight a parameter is.

    Raises:
        GraphError: for weights of recurrent and attention modules, which are several layers in one.
    """
    path, _, leaf = parameter.rpartition(".")
    if leaf != "weight":
        raise GraphError(f"`obs` cannot tell the inputs of `{parameter}` from those of other weights of `{path}`. Use `fisher` or `magnitude`.")
    return path


def _errors(model: nn.Module, names: Iterable[str], batches: Batches) -> dict[str, torch.Tensor]:
    """s_w of the named layers, float64, shape of the weight."""
    layers = {name: model.get_submodule(name) for name in names}
    for name, layer in layers.items():
        if getattr(layer, "transposed", False) or is_transposed_linear(layer):
            raise GraphError(f"`obs` has no Hessian for `{name}` ({type(layer).__name__}), whose weight is transposed. Use `taylor` or `fisher`.")
    embeddings = [name for name, layer in layers.items() if isinstance(layer, nn.Embedding)]
    errors = {}
    for name, energy in (input_energy(model, embeddings, batches) if embeddings else {}).items():
        errors[name] = model.get_parameter(f"{name}.weight").detach().double() ** 2 * energy
    for name, blocks in _hessians(model, {name: layer for name, layer in layers.items() if name not in embeddings}, batches).items():
        weight = model.get_parameter(f"{name}.weight").detach().double()
        rows = weight.reshape(len(blocks[0]), -1, sum(block.shape[-1] for block in blocks))  # (groups, outputs of one, inputs of one output)
        errors[name] = (rows**2 * _least_growth(blocks)[:, None, :]).reshape(weight.shape)
    return errors


def _hessians(model: nn.Module, layers: dict[str, nn.Module], batches: Batches) -> dict[str, list[torch.Tensor]]:
    """Layer name -> blocks (groups, columns, columns) of H without damping."""
    totals: dict[str, list[torch.Tensor]] = {}
    generator = torch.Generator().manual_seed(0)

    def add(name: str, x: torch.Tensor) -> None:
        rows, share = _rows(layers[name], x.detach(), generator)
        columns = torch.split(rows.movedim(1, 0), MAX_COLUMNS, dim=2)
        blocks = [(part.mT @ part).double() / share for part in columns]
        totals[name] = [total + block for total, block in zip(totals[name], blocks, strict=True)] if name in totals else blocks

    examples = visit_inputs(model, layers, batches, add) if layers else 0
    return {name: [total / examples for total in blocks] for name, blocks in totals.items()}


def _rows(layer: nn.Module, x: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, float]:
    """(rows, groups, inputs of one output) that the layer's outputs read at up to `MAX_ROWS` positions, and the share of all positions."""
    if not isinstance(layer, _ConvNd):
        rows = x.reshape(-1, 1, x.shape[-1])
        chosen = _choose(len(rows), generator).to(x.device)
        return rows[chosen], len(chosen) / len(rows)
    windows = _windows(layer, x)
    positions = windows.shape[: 1 + len(layer.kernel_size)]
    chosen = _choose(prod(positions), generator).to(x.device)
    rows = windows[torch.unravel_index(chosen, positions)]
    return rows.reshape(len(chosen), layer.groups, -1), len(chosen) / prod(positions)


def _windows(layer: _ConvNd, x: torch.Tensor) -> torch.Tensor:
    """A view (n, *output positions, channels, *kernel) of the padded input of a convolution."""
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    view = functional.pad(x, layer._reversed_padding_repeated_twice, mode=mode)
    for axis, (kernel, stride, dilation) in enumerate(zip(layer.kernel_size, layer.stride, layer.dilation, strict=True)):
        view = view.unfold(2 + axis, (kernel - 1) * dilation + 1, stride)[..., ::dilation]
    return view.movedim(1, 1 + len(layer.kernel_size))


def _choose(count: int, generator: torch.Generator) -> torch.Tensor:
    """Sorted positions: all, or `MAX_ROWS` at random."""
    return torch.arange(count) if count <= MAX_ROWS else torch.randperm(count, generator=generator)[:MAX_ROWS].sort().values


def _least_growth(blocks: list[torch.Tensor]) -> torch.Tensor:
    """1 / diag(H^-1) of the damped H: float64 (groups, columns), 0 for inputs that are never active."""
    diagonal = torch.cat([block.diagonal(dim1=1, dim2=2) for block in blocks], dim=1)
    if not diagonal.any():
        return torch.zeros_like(diagonal)
    damping = DAMPING * diagonal.mean()
    inverse = [_inverse_diagonal(block, float(damping)) for block in blocks]
    return torch.where(diagonal > 0, 1 / torch.cat(inverse, dim=1), 0.0)


def _inverse_diagonal(block: torch.Tensor, damping: float) -> torch.Tensor:
    identity = torch.eye(block.shape[-1], dtype=block.dtype, device=block.device)
    return torch.cholesky_inverse(torch.linalg.cholesky(block + damping * identity)).diagonal(dim1=1, dim2=2)
