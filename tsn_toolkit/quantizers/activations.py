"""Static 8-bit activations around the store's integer weights, rebuilt from ranges that were calibrated once (`quantizers/ranges.py`), without data.

Weights are never re-quantized by statistics. Folding a norm with gain g multiplies output channel c by g[c], so the channel keeps its integers q with
scale |scale[c] * g[c]|, and q is negated where scale[c] * g[c] < 0. A channel's q changes only where the folded scale is so small that the folded
bias would not fit 32 bits beside it (a gain of 0, or one that weight decay has driven to 1e-12); such channels are listed.

Activations: signed int8 in [-128, 127], or uint8 where the value cannot be negative; zero point 0; one scale per tensor.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tsn_toolkit.contracts import ActivationRange
from tsn_toolkit.errors import ExportError
from tsn_toolkit.quantizers.brevitas_graph import QuantizedGraph, activation_proxies, levels_of, quantize_graph, scaling_of
from tsn_toolkit.quantizers.coded_layers import Codes, Scales, check_layers, column
from tsn_toolkit.quantizers.ranges import calibrate_ranges

_MAX_BIAS_CODE = 2**30


class IntegerModel(nn.Module):
    """The integer reference: a Brevitas module whose arithmetic an exported artefact must reproduce.

    Attributes:
        module: the Brevitas module.
        mode: `graph` or `layerwise` (see `quantizers.brevitas_graph`).
        notes: one sentence per thing the user should know.
        codes: layer -> int8 array, the integers the weight quantizers emit, norms folded.
        negated: layer -> channels whose q is the negated q of the store.
        requantized: layer -> channels whose q differs from the store's beyond the sign.
        output_step: step of the output quantizer, or None when the output is not quantized.
        blocks: layer -> number of inputs in each block that the runtime rounds again, with a scale of its own, before it multiplies; set by the
            exporter that chooses such a kernel.
    """

    def __init__(self, graph: QuantizedGraph) -> None:
        super().__init__()
        self.module = graph.module
        self.mode = graph.mode
        self.notes = graph.notes
        self.codes: dict[str, NDArray[np.int8]] = {}
        self.negated: dict[str, tuple[int, ...]] = {}
        self.requantized: dict[str, tuple[int, ...]] = {}
        self.output_step: float | None = None
        self.blocks: dict[str, int] = {}

    def exported(self, layer: str, stored: NDArray[np.int8], *, negated: bool = True) -> NDArray[np.int8]:
        """The integers that an artefact must hold for a layer: the store's, with the listed signs, and the listed channels as rounded anew.

        Args:
            layer: its name.
            stored: the store's integers, shape of the weight.
            negated: False for a form that keeps the store's sign of every channel and a signed factor beside it.
        """
        expected, flipped, changed = stored.copy(), list(self.negated[layer]), list(self.requantized[layer])
        expected[flipped] *= -1
        expected[changed] = self.codes[layer][changed]
        if not negated:
            expected[flipped] *= -1
        return expected

    def listed_channels(self) -> dict[str, dict[str, list[int]]]:
        """What a manifest says of channels that differ from the store's integers: kind -> layer -> channels."""
        kinds = {"negated_channels": self.negated, "requantized_channels": self.requantized}
        return {kind: {name: list(rows) for name, rows in layers.items() if rows} for kind, layers in kinds.items()}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of x as the integer arithmetic gives them, dequantized to float32."""
        return self.module(x)


def build_integer_model(
    model: nn.Module, q: Codes, scale: Scales, example: torch.Tensor, *, ranges: Mapping[str, ActivationRange] | None = None
) -> IntegerModel:
    """Make the integer reference of `model`.

    Args:
        model: plain float module in eval mode, weight == scale[c] * q exactly in float32; not changed.
        q: layer -> int8 codes, shape of the weight, in [-127, 127].
        scale: layer -> float32 (out_channels,).
        example: float32 input (batch, ...).
        ranges: of a former calibration; no data is needed then. None: `example` is the calibration batch.

    Raises:
        ExportError: weights are not scale * q, a layer kind has no integer form, or `ranges` names other quantizers than the model has.
    """
    check_layers(model, q, scale)
    if ranges is None:
        ranges = calibrate_ranges(model, q, scale, [example])
    result = IntegerModel(quantize_graph(model, example))
    folded = {name: _set_weight_(result, name, q[name], scale[name]) for name in q}
    _set_ranges_(result.module, ranges)
    _fit_biases_(result, folded, q, example)
    _check_integers(result, q)
    result.output_step = _output_step(result)
    return result.eval()


def _output_step(result: IntegerModel) -> float | None:
    if result.mode != "graph":
        return None
    last = next(node for node in result.module.graph.nodes if node.op == "output").args[0]
    proxy = activation_proxies(result.module).get(str(getattr(last, "target", "")))
    return None if proxy is None else float(proxy.scale().detach())


def _set_ranges_(module: nn.Module, ranges: Mapping[str, ActivationRange]) -> None:
    proxies = activation_proxies(module)
    missing, unknown = sorted(set(proxies) - set(ranges)), sorted(set(ranges) - set(proxies))
    if missing or unknown:
        raise ExportError(f"Activation ranges do not fit the model: none for {missing}, no quantizer for {unknown}. Calibrate this model again.")
    for name, proxy in proxies.items():
        wanted = ranges[name]
        if wanted.zero_point != 0 or wanted.signed != bool(proxy.is_signed) or not 0.0 < wanted.scale < float("inf"):
            raise ExportError(f"Range of `{name}` must have zero point 0, signed {bool(proxy.is_signed)} and a positive scale, got {wanted}.")
        scaling = scaling_of(proxy)
        scaling.value.data.fill_(wanted.scale * levels_of(proxy))
        if hasattr(scaling, "counter"):
            scaling.counter = scaling.collect_stats_steps + 1
    for name, proxy in proxies.items():
        got, wanted = float(proxy.scale().detach()), ranges[name].scale
        if not abs(got - wanted) <= 1e-6 * wanted:
            raise ExportError(
                f"Range of `{name}` must have scale {got} like the quantizers it is added to, got {wanted}. Calibrate this model again."
            )


def _set_weight_(result: IntegerModel, name: str, codes: NDArray[np.int8], scale: NDArray[np.float32]) -> torch.Tensor:
    """Give layer `name` the store's integers with the folded scales; returns the folded scale (out_channels,), float64, 0 where nothing is left."""
    layer = result.module.get_submodule(name)
    stored = torch.from_numpy(np.array(scale, np.float64))
    integers = torch.from_numpy(codes.astype(np.float64)).flatten(1)
    folded = layer.weight.detach().to(torch.float64).flatten(1)
    peak = integers.abs().argmax(1, keepdim=True)
    at_peak = integers.gather(1, peak).squeeze(1)
    signed = torch.where(at_peak != 0, folded.gather(1, peak).squeeze(1) / torch.where(at_peak == 0, 1.0, at_peak), stored.abs())
    negative = signed < 0
    result.negated[name] = tuple(torch.nonzero(negative).flatten().tolist())
    result.requantized[name] = ()
    result.codes[name] = np.where(column(negative, codes.ndim).numpy(), -codes, codes).astype(np.int8)
    _write_weight_(layer, result.codes[name], signed.abs())
    return signed.abs()


def _write_weight_(layer: nn.Module, codes: NDArray[np.int8], scale: torch.Tensor) -> None:
    scaling = layer.weight_quant.tensor_quant.scaling_impl
    quantizer = layer.weight_quant.tensor_quant
    levels = float(quantizer.int_scaling_impl(quantizer.msb_clamp_bit_width_impl()))
    safe = torch.where(scale > 0, scale, torch.ones_like(scale)).to(torch.float32)
    scaling.value.data.copy_((safe * levels).reshape(scaling.value.shape))
    scaling.init_done = True  # or Brevitas would replace the value by statistics of the weight
    layer.weight.data.copy_(column(safe, codes.ndim) * torch.from_numpy(codes.astype(np.float32)))


def _fit_biases_(result: IntegerModel, folded: Mapping[str, torch.Tensor], q: Codes, example: torch.Tensor) -> None:
    """Raise the weight scale of channels whose bias would overflow int32; their codes are rounded anew and listed."""
    steps = _input_steps(result, example)
    for name, scale in folded.items():
        layer = result.module.get_submodule(name)
        bias = layer.bias.detach().to(torch.float64).abs() if layer.bias is not None else torch.zeros_like(scale)
        needed = bias / (_MAX_BIAS_CODE * steps[name])
        small = (scale < needed) | (scale < np.finfo(np.float32).tiny)
        if not bool(small.any()):
            continue
        raised = torch.where(small, torch.where(needed > 0, needed, torch.ones_like(needed)), scale)
        ratio = column(scale / raised, q[name].ndim).numpy()
        codes = np.rint(result.codes[name].astype(np.float64) * ratio).astype(np.int8)
        changed = np.flatnonzero((codes != result.codes[name]).reshape(len(codes), -1).any(axis=1))
        result.requantized[name] = tuple(int(channel) for channel in changed)
        result.codes[name] = codes
        _write_weight_(layer, codes, raised)


def _input_steps(result: IntegerModel, example: torch.Tensor) -> dict[str, float]:
    """Activation step at the input of every integer layer."""
    steps: dict[str, float] = {}

    def record(name: str):
        def hook(layer: nn.Module, inputs: tuple[object, ...]) -> None:
            quantized = layer.input_quant(inputs[0])
            if getattr(quantized, "scale", None) is None:
                raise ExportError(f"The input of layer `{name}` is not quantized, so its bias has no integer form. Export needs it quantized.")
            steps[name] = float(quantized.scale.detach())

        return hook

    handles = [result.module.get_submodule(name).register_forward_pre_hook(record(name)) for name in result.codes]
    try:
        with torch.no_grad():
            result.module(example)
    finally:
        for handle in handles:
            handle.remove()
    return steps


def _check_integers(result: IntegerModel, q: Codes) -> None:
    for name, codes in result.codes.items():
        layer = result.module.get_submodule(name)
        emitted = layer.quant_weight().int().numpy()
        if not np.array_equal(emitted, codes):
            raise ExportError(f"Brevitas does not reproduce the codes of layer `{name}`: {int((emitted != codes).sum())} of {codes.size} differ.")
        keep = np.setdiff1d(np.arange(len(codes)), result.requantized[name])
        sign = np.ones(len(codes), np.int8)
        sign[list(result.negated[name])] = -1
        signed = q[name] * sign.reshape(-1, *[1] * (codes.ndim - 1))
        assert np.array_equal(codes[keep], signed[keep]), name
