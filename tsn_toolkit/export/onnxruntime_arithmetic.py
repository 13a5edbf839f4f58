"""The integer reference of ONNX Runtime's arithmetic, computed from the store's integers and never from the exported file.

Rules of the runtime's CPU kernels, all scales in float32, rint = round half to even, a = activation code, w = weight code, S = scale:

- QuantizeLinear: q = rint(x / S)
- QLinearConv, QGemm: acc = sum a * w + bias (int32, exact); q = rint(float32(acc) * (S_in * S_w[c] / S_out)), clipped, so that a ReLU is the clip
- QLinearAdd, zero points z: q = rint(fma(b + z_b, S_b / S_out, fma(a + z_a, S_a / S_out, z_out - (S_a / S_out * z_a + S_b / S_out * z_b)))) - z_out,
  or with a and b exchanged: which operand comes first depends on the processor that the kernel was made for (`Order`)
- QLinearAveragePool: the mean of the dequantized codes, quantized again

A simulation in floats, such as Brevitas' own forward, rounds sums near a half differently, and a deep net carries such flips to its output; this
reference does not. Accumulators are computed by floating-point convolution of integers, which is exact while every partial sum is below the mantissa:
float32 where the layer's bound allows it, else float64.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import nn

from tsn_toolkit.quantizers.activations import IntegerModel
from tsn_toolkit.quantizers.brevitas_graph import activation_proxies

Order = Literal["first", "second"]
"""The operand of an addition that the kernel adds first."""
ORDERS: tuple[Order, ...] = ("first", "second")

_EXACT_FLOAT32 = 2**24
_ADDITIONS = (torch.add, operator.add, operator.iadd)
_RESHAPES = (torch.flatten, torch.reshape)
_PRESERVING = (nn.MaxPool1d, nn.MaxPool2d, nn.Flatten, nn.Identity, nn.Dropout)
_AVERAGING = (nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d)


@dataclass(frozen=True)
class _Codes:
    """Integers in a float tensor; real = scale * value, scale float32 (1,) or per channel shaped to broadcast."""

    value: torch.Tensor
    scale: torch.Tensor
    signed: bool
    accumulator: bool = False


@dataclass(frozen=True)
class _Sum:
    """Of two codes, the one that the kernel adds first and the other."""

    first: _Codes
    second: _Codes


class _Unknown(Exception):
    """An operation without an integer rule here."""


def reference_outputs(reference: IntegerModel, x: torch.Tensor, *, batch_size: int = 100, order: Order = "first") -> tuple[torch.Tensor, str]:
    """Outputs of the integer arithmetic.

    Args:
        reference: from `build_integer_model`.
        x: float32 inputs (n, ...).
        batch_size: examples per pass; has no influence on the result.
        order: of the operands of additions.

    Returns:
        (outputs, kind): float32 outputs (n, ...) and `integer`, or `simulated` where the model holds an operation without an integer rule and
        Brevitas' float simulation had to be used.
    """
    chunks = x.split(batch_size)
    with torch.no_grad():
        try:
            return torch.cat([_Interpreter(reference, order).run(chunk) for chunk in chunks]), "integer"
        except _Unknown:
            return torch.cat([reference(chunk) for chunk in chunks]).detach(), "simulated"


class _Interpreter:
    """Runs the Brevitas graph node by node on integers."""

    def __init__(self, reference: IntegerModel, order: Order) -> None:
        if reference.mode != "graph":
            raise _Unknown(reference.mode)
        self.reference, self.order = reference, order
        self.proxies = activation_proxies(reference.module)
        self.owners = {id(reference.module.get_submodule(name)): proxy for name, proxy in self.proxies.items()}

    def run(self, x: torch.Tensor) -> torch.Tensor:
        values: dict[Any, Any] = {}
        for node in self.reference.module.graph.nodes:
            args = [values[arg] if arg in values else arg for arg in node.args] if node.op != "placeholder" else []
            if node.op == "placeholder":
                values[node] = x
            elif node.op == "call_module":
                values[node] = self._module(node.target, args)
            elif node.op in ("call_function", "call_method"):
                values[node] = self._function(node.target, args, node.kwargs)
            elif node.op == "output":
                result = values.get(node.args[0])
                if not isinstance(result, _Codes) or result.accumulator:
                    raise _Unknown("the output is not quantized")
                return result.value.to(torch.float32) * result.scale
            else:
                raise _Unknown(node.op)
        raise _Unknown("the graph has no output")

    def _module(self, name: str, args: list[Any]) -> Any:
        module = self.reference.module.get_submodule(name)
        if id(module) in self.owners:
            return _quantize(args[0], self.owners[id(module)])
        value = args[0]
        if not isinstance(value, _Codes) or value.accumulator:
            raise _Unknown(name)
        if name in self.reference.codes:
            return _accumulate(module, value)
        if isinstance(module, _PRESERVING):
            return _Codes(module(value.value), value.scale, value.signed)
        if isinstance(module, _AVERAGING):
            return module(value.value.to(torch.float32) * value.scale)
        raise _Unknown(name)

    def _function(self, target: Any, args: list[Any], kwargs: dict[str, Any]) -> Any:
        if target in _ADDITIONS or target in ("add", "add_"):
            if len(args) == 2 and all(isinstance(arg, _Codes) and not arg.accumulator for arg in args) and not kwargs:
                return _Sum(args[0], args[1]) if self.order == "first" else _Sum(args[1], args[0])
        elif target in _RESHAPES or target in ("flatten", "view", "reshape"):
            if isinstance(args[0], torch.Tensor):  # a mean that is quantized only after it is reshaped
                return _reshape(args[0], target, args[1:], kwargs)
            if isinstance(args[0], _Codes) and args[0].scale.numel() == 1:
                return _Codes(_reshape(args[0].value, target, args[1:], kwargs), args[0].scale, args[0].signed)
        raise _Unknown(str(target))


def _reshape(value: torch.Tensor, target: Any, args: list[Any], kwargs: dict[str, Any]) -> torch.Tensor:
    result = getattr(value, target)(*args, **kwargs) if isinstance(target, str) else target(value, *args, **kwargs)
    assert isinstance(result, torch.Tensor)
    return result


def _accumulate(layer: nn.Module, x: _Codes) -> _Codes:
    """Integer accumulators of a layer, the bias included."""
    quantized = layer.quant_weight()
    weight = quantized.int().to(torch.float64)
    dims = x.value.dim()
    scale = (x.scale * quantized.scale.reshape(-1).to(torch.float32)).to(torch.float32)
    bias = torch.zeros(len(weight), dtype=torch.float64)
    if layer.bias is not None:
        bias = torch.round((layer.bias.detach().to(torch.float32) / scale).to(torch.float64))
    bound = float(weight.abs().flatten(1).sum(1).max()) * 255.0
    kind = torch.float32 if bound < _EXACT_FLOAT32 else torch.float64
    value, weight = x.value.to(kind), weight.to(kind)
    if isinstance(layer, nn.Linear):
        result = F.linear(value, weight)
        shape = (1,) * (dims - 1) + (-1,)
    else:
        convolve = F.conv1d if dims == 3 else F.conv2d
        if layer.padding_mode != "zeros" or isinstance(layer.padding, str):
            raise _Unknown("padding")
        result = convolve(value, weight, None, layer.stride, layer.padding, layer.dilation, layer.groups)
        shape = (1, -1) + (1,) * (dims - 2)
    return _Codes(result.to(torch.float64) + bias.reshape(shape), scale.reshape(shape), True, accumulator=True)


def _quantize(value: Any, proxy: nn.Module) -> _Codes:
    """Codes of one activation quantizer from floats, accumulators, codes of another scale, or a sum of codes."""
    step = proxy.scale().detach().to(torch.float32).reshape(())
    signed = bool(proxy.is_signed)
    zero = 128.0 if signed else 0.0
    if isinstance(value, _Sum):
        codes = _requantized_sum(value, step, zero)
    elif isinstance(value, _Codes) and value.accumulator:
        codes = torch.round(value.value.to(torch.float32) * (value.scale / step))
    elif isinstance(value, _Codes):
        codes = torch.round(value.value.to(torch.float32) * value.scale / step)
    else:
        codes = torch.round(value / step)
    low, high = (-128.0, 127.0) if signed else (0.0, 255.0)
    return _Codes(codes.clamp(low, high).to(torch.float32), step, signed)


def _requantized_sum(value: _Sum, step: torch.Tensor, zero: float) -> torch.Tensor:
    first, second = value.first, value.second
    ratio_first, ratio_second = first.scale / step, second.scale / step
    zero_first, zero_second = 128.0 * first.signed, 128.0 * second.signed
    fixed = zero - (ratio_first * zero_first + ratio_second * zero_second)
    partial = _fused(first.value + zero_first, ratio_first, fixed)
    return torch.round(_fused(second.value + zero_second, ratio_second, partial)) - zero


def _fused(value: torch.Tensor, factor: torch.Tensor, addend: torch.Tensor) -> torch.Tensor:
    """float32 of value * factor + addend with one rounding, as the processor's fused multiply-add."""
    return (value.to(torch.float64) * factor.to(torch.float64) + addend.to(torch.float64)).to(torch.float32)
