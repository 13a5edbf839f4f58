"""Ranges of activations from data: what the quantizers of a Brevitas module must hold, found once and stored with the task.

Signed int8 in [-128, 127], or uint8 where the value cannot be negative; zero point 0; one scale per tensor, the same for tensors that are added.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Literal, get_args

import numpy as np
import torch
from torch import nn

from tsn_toolkit.contracts import ActivationRange
from tsn_toolkit.errors import ExportError
from tsn_toolkit.numerics.clipping import AbsoluteHistogram, count_absolute, least_error_step
from tsn_toolkit.quantizers.brevitas_graph import activation_proxies, fixed_threshold, float_mode, levels_of, quantize_graph, scaling_of
from tsn_toolkit.quantizers.coded_layers import Codes, Scales, check_layers

RangeRule = Literal["min_max", "percentile", "mse"]
"""How the range of an activation follows from data."""
DEFAULT_PERCENTILE = 0.99999

_SMALLEST_THRESHOLD = 1e-6


def calibrate_ranges(
    model: nn.Module,
    q: Codes,
    scale: Scales,
    batches: Iterable[torch.Tensor],
    *,
    rule: RangeRule = "percentile",
    percentile: float = DEFAULT_PERCENTILE,
) -> dict[str, ActivationRange]:
    """Find the range of every activation quantizer of `model` from data.

    Args:
        model: plain float module in eval mode; not changed.
        q: layer -> int8 codes, shape of the weight.
        scale: layer -> float32 (out_channels,).
        batches: float32 inputs (batch, ...), at least one.
        rule: `min_max` (nothing is clipped), `percentile`, or `mse` (the least squared error of the quantized values).
        percentile: of the rule of that name: fraction in (0, 1] of the absolute values of one batch that the range must hold. The largest over
            batches counts.

    Returns:
        Quantizer name -> range, in graph order. Names depend on the model alone; quantizers that share a scale get the same scale.

    Raises:
        ExportError: no batch, a batch that is not finite, or a model that cannot be quantized.
    """
    if not 0.0 < percentile <= 1.0:
        raise ExportError(f"`percentile` must be in (0, 1], got {percentile}. Use the rule `min_max` for ranges that hold every value.")
    if rule not in get_args(RangeRule):
        raise ExportError(f"`rule` must be one of {', '.join(get_args(RangeRule))}, got {rule!r}.")
    batches = list(batches)
    if not batches:
        raise ExportError("Calibration needs at least one batch of inputs, got none. Give training examples of the task.")
    for index, batch in enumerate(batches):
        if not torch.isfinite(batch).all():
            raise ExportError(f"Calibration batch {index} holds values that are not finite. Check the data and its normalisation.")
    check_layers(model, q, scale)
    module = quantize_graph(model, batches[0]).module
    largest = _observe(module, batches, percentile if rule == "percentile" else 1.0)
    proxies = activation_proxies(module)
    unseen = [name for name in proxies if name not in largest]
    if unseen:
        raise ExportError(f"Activation quantizers {unseen} saw no data during calibration. Each must run in the model's forward.")
    steps = _widest_steps(proxies, largest)
    if rule == "mse":
        steps.update(_least_error_steps(module, batches, largest))
    ranges = {}
    for name, proxy in proxies.items():
        step = steps[id(scaling_of(proxy))]
        ranges[name] = ActivationRange(scale=float(np.float32(step)), zero_point=0, signed=bool(proxy.is_signed))
    return ranges


def _observe(module: nn.Module, batches: list[torch.Tensor], percentile: float) -> dict[str, float]:
    """Largest percentile of |activation| over the batches, per quantizer, with all quantizers passing floats through."""
    largest: dict[str, float] = {}
    proxies = activation_proxies(module)

    def record(name: str, proxy: nn.Module):
        fixed = fixed_threshold(proxy)

        def hook(_: nn.Module, __: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
            if fixed is not None:
                largest[name] = fixed
                return output
            values = output.detach().abs().flatten()
            if not torch.isfinite(values).all():
                raise ExportError(f"Activations at `{name}` are not finite during calibration. Check the inputs and the model.")
            rank = max(1, int(np.ceil(percentile * values.numel())))
            largest[name] = max(largest.get(name, 0.0), float(values.kthvalue(rank).values))
            return output

        return hook

    _run_in_float(module, batches, {name: record(name, proxy) for name, proxy in proxies.items()})
    return largest


def _widest_steps(proxies: Mapping[str, nn.Module], largest: Mapping[str, float]) -> dict[int, float]:
    """Step of each scaling; quantizers whose values are added share one, and the one that needs the widest steps decides."""
    steps: dict[int, float] = {}
    for name, proxy in proxies.items():
        levels = levels_of(proxy) if fixed_threshold(proxy) is not None else _largest_code(proxy)
        key = id(scaling_of(proxy))
        steps[key] = max(steps.get(key, 0.0), max(largest[name], _SMALLEST_THRESHOLD) / levels)
    return steps


def _least_error_steps(module: nn.Module, batches: list[torch.Tensor], largest: Mapping[str, float]) -> dict[int, float]:
    """Step of each scaling with the least squared error over all batches and quantizers that share it; those with a fixed range are left out."""
    proxies = activation_proxies(module)
    histograms: dict[str, AbsoluteHistogram] = {}

    def record(name: str, proxy: nn.Module):
        def hook(_: nn.Module, __: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
            if fixed_threshold(proxy) is not None:
                return output
            counted = count_absolute(output.detach().numpy(), max(largest[name], _SMALLEST_THRESHOLD), _largest_code(proxy))
            histograms[name] = counted if name not in histograms else replace(counted, counts=counted.counts + histograms[name].counts)
            return output

        return hook

    _run_in_float(module, batches, {name: record(name, proxy) for name, proxy in proxies.items()})
    together: dict[int, list[AbsoluteHistogram]] = {}
    for name, histogram in histograms.items():
        together.setdefault(id(scaling_of(proxies[name])), []).append(histogram)
    bound = {id(scaling_of(proxy)) for proxy in proxies.values() if fixed_threshold(proxy) is not None}
    return {key: least_error_step(shared) for key, shared in together.items() if key not in bound}


def _largest_code(proxy: nn.Module) -> float:
    return 127.0 if proxy.is_signed else 255.0


def _run_in_float(module: nn.Module, batches: list[torch.Tensor], hooks: Mapping[str, Callable[..., torch.Tensor]]) -> None:
    """Runs all batches with all quantizers passing floats through and a hook on each."""
    proxies = activation_proxies(module)
    with torch.no_grad(), float_mode(module):
        handles = [proxies[name].register_forward_hook(hook) for name, hook in hooks.items()]
        try:
            for batch in batches:
                module(batch)
        finally:
            for handle in handles:
                handle.remove()
