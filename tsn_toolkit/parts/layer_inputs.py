"""What arrives at a layer: its inputs as rows that its weight multiplies, and their gram."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from tsn_toolkit.filling import CODED_TYPES


class _Arrived(Exception):
    """Stops a forward pass where its value is known."""


def input_rows(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The inputs of a layer as rows: output channel c of group g is `rows[g] @ weight[c].flatten()`, bias left out.

    Args:
        module: Linear, Conv1d or Conv2d.
        x: what the layer is called with.

    Returns:
        (groups, positions of all examples, inputs of one output channel); a Linear has one group.
    """
    if isinstance(module, nn.Linear):
        return x.reshape(1, -1, x.shape[-1])
    assert isinstance(module, nn.Conv1d | nn.Conv2d), "only coded layers have rows"
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    padded = functional.pad(x, module._reversed_padding_repeated_twice, mode=mode)
    kernel, stride, dilation = module.kernel_size, module.stride, module.dilation
    if isinstance(module, nn.Conv1d):  # as an image of height 1, because only images can be unfolded
        padded, kernel, stride, dilation = padded.unsqueeze(2), (1, *kernel), (1, *stride), (1, *dilation)
    columns = functional.unfold(padded, kernel, dilation=dilation, stride=stride)  # (n, in * kernel, positions)
    grouped = columns.unflatten(1, (module.groups, -1))
    return grouped.permute(1, 0, 3, 2).flatten(1, 2)


@torch.no_grad()
def input_gram(model: nn.Module, name: str, batches: Sequence[torch.Tensor]) -> torch.Tensor | None:
    """Sum of x x^T over all rows x that arrive at layer `name`, float64 (groups, inputs, inputs).

    Only the layer's first run in a forward pass counts; None where it never runs as a module.

    Args:
        model: evaluation mode.
        name: path of a coded layer.
        batches: inputs of the model.
    """
    module, total = model.get_submodule(name), None

    def keep(_: nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
        nonlocal total
        rows = input_rows(module, arguments[0])
        gram = (rows.transpose(1, 2) @ rows).double()
        total = gram if total is None else total + gram
        raise _Arrived

    handle = module.register_forward_pre_hook(keep)
    try:
        for x in batches:
            try:
                model(x)
            except _Arrived:
                continue
    finally:
        handle.remove()
    return total


@torch.no_grad()
def layers_in_order(model: nn.Module, x: torch.Tensor) -> list[str]:
    """Paths of all coded layers in the order in which they first run on `x`, then those that never run as a module."""
    names = [name for name, module in model.named_modules() if isinstance(module, CODED_TYPES)]
    order: list[str] = []
    handles = [model.get_submodule(name).register_forward_pre_hook(lambda *_, name=name: order.append(name)) for name in names]
    try:
        model(x)
    finally:
        for handle in handles:
            handle.remove()
    return list(dict.fromkeys((*order, *names)))


def relative_error(computed: torch.Tensor, wanted: torch.Tensor, gram: torch.Tensor) -> float:
    """|outputs of `computed` - outputs of `wanted`| / |outputs of `wanted`| over the inputs of a gram, of whole layers; 0 where nothing is wanted.

    Args:
        computed, wanted: weights (out, ...).
        gram: (groups, inputs, inputs), see `input_gram`.
    """
    power = [_power(weight, gram) for weight in (computed - wanted, wanted)]
    return (power[0] / power[1]) ** 0.5 if power[1] > 0 else 0.0


def _power(weight: torch.Tensor, gram: torch.Tensor) -> float:
    rows = weight.detach().double().flatten(1).unflatten(0, (len(gram), -1))  # (groups, out of a group, inputs)
    return float(((rows @ gram) * rows).sum().clamp_min(0))
