"""Empirical bias correction (Nagel et al., ICCV 2019): what coding did to the mean of every channel is taken back by the vector that is added to it.

For layer after layer, in the order in which they run, on the same inputs

    shift += mean over examples and positions of (output of the float network - output of the coded network)

where the output is that of the norm behind the layer, where there is one, else the layer's own, and earlier layers are corrected already. The shift
is the task's own (a norm's second vector, or a bias), so no inherited number changes. A layer with neither is left alone: what its error does to the
mean is taken back at the next layer that has one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from tsn_toolkit.parts.layer_inputs import layers_in_order
from tsn_toolkit.parts.step_record import LayerChange


@torch.no_grad()
def correct_biases_(model: nn.Module, reference: nn.Module, norms: Mapping[str, str], batches: Sequence[torch.Tensor]) -> tuple[LayerChange, ...]:
    """Corrects every layer of the coded network, in place.

    Args:
        model: the coded network, evaluation mode.
        reference: the same network with its own weights in float, evaluation mode.
        norms: layer -> path of the norm directly behind it, "" for none.
        batches: calibration inputs.

    Returns:
        One entry per layer in execution order, whose changes are channels.
    """
    order = layers_in_order(model, batches[0][:1])
    points = {name: norms.get(name) or name for name in order if _has_shift(model, norms.get(name) or name)}
    wanted = {point: _channel_mean(reference, point, batches) for point in points.values()}
    before = _relative_errors(model, reference, list(points.values()), batches)
    moved: dict[str, int] = {}
    for point, mean in wanted.items():
        got = _channel_mean(model, point, batches)
        if mean is not None and got is not None:
            moved[point] = _add_(model.get_submodule(point), mean - got)
    after = _relative_errors(model, reference, list(points.values()), batches)
    return tuple(_change(model, name, points, moved, before, after) for name in order)


def _change(
    model: nn.Module, name: str, points: Mapping[str, str], moved: Mapping[str, int], before: Mapping[str, float], after: Mapping[str, float]
) -> LayerChange:
    if name not in points:
        return LayerChange(name, reason="has neither a norm behind it nor a bias")
    point = points[name]
    if point not in moved:
        return LayerChange(name, reason="its output is not seen, it never runs as a module")
    return LayerChange(name, moved[point], model.get_submodule(name).weight.shape[0], before[point], after[point])


def _has_shift(model: nn.Module, point: str) -> bool:
    module = model.get_submodule(point)
    return isinstance(module, nn.modules.batchnorm._BatchNorm) or getattr(module, "bias", None) is not None


def _add_(module: nn.Module, difference: torch.Tensor) -> int:
    """Adds to the shift of a norm or the bias of a layer; returns how many channels moved."""
    if getattr(module, "bias", None) is not None:
        target, step = module.bias, difference
    else:  # a norm without vectors of its own shifts by its mean
        target, step = module.running_mean, -difference * torch.sqrt(module.running_var.double() + module.eps)
    old = target.clone()
    target.add_(step.to(target.dtype))
    return int((target != old).sum())


class _Seen(Exception):
    """Stops a forward pass where its value is known."""


def _channel_mean(model: nn.Module, point: str, batches: Sequence[torch.Tensor]) -> torch.Tensor | None:
    """Mean output of a module per channel over all examples and positions, float64 (channels,); None where it never runs."""
    total, count = None, 0

    def keep(module: nn.Module, _: object, output: torch.Tensor) -> None:
        nonlocal total, count
        values = _by_channel(module, output)
        total, count = values.sum(0) + (0 if total is None else total), count + len(values)
        raise _Seen

    handle = model.get_submodule(point).register_forward_hook(keep)
    try:
        for x in batches:
            try:
                model(x)
            except _Seen:
                continue
    finally:
        handle.remove()
    return None if total is None else total / count


def _by_channel(module: nn.Module, output: torch.Tensor) -> torch.Tensor:
    """Outputs as float64 (examples * positions, channels); the channels of a Linear come last, those of all others second."""
    moved = output if isinstance(module, nn.Linear) else output.movedim(1, -1)
    return moved.reshape(-1, moved.shape[-1]).double()


def _relative_errors(model: nn.Module, reference: nn.Module, points: Sequence[str], batches: Sequence[torch.Tensor]) -> dict[str, float]:
    """|output - reference output| / |reference output| of every module that runs."""
    power = {point: [0.0, 0.0] for point in points}
    for x in batches:
        wanted, got = _outputs(reference, points, x), _outputs(model, points, x)
        for point in wanted:
            power[point][0] += float((got[point] - wanted[point]).square().sum())
            power[point][1] += float(wanted[point].square().sum())
    return {point: (error / whole) ** 0.5 if whole > 0 else 0.0 for point, (error, whole) in power.items()}


def _outputs(model: nn.Module, points: Sequence[str], x: torch.Tensor) -> dict[str, torch.Tensor]:
    seen: dict[str, torch.Tensor] = {}
    handles = [
        model.get_submodule(point).register_forward_hook(lambda _, __, output, point=point: seen.__setitem__(point, output.double()))
        for point in points
    ]
    try:
        model(x)
    finally:
        for handle in handles:
            handle.remove()
    return seen
