"""The integer reference of ONNX Runtime's arithmetic, computed from the store's integers and never from the exported file.

Rules of the runtime's CPU kernels, all scales in float32, rint = round half to even, a = activation code, w = weight code, S = scale:

- QuantizeLinear: q = rint(x / S)
- QLinearConv, QGemm: acc = sum a * w + bias (int32, exact); q = rint(float32(acc) * (S_in * S_w[c] / S_out)), clipped, so that a ReLU is the clip
- QLinearAdd, zero points z: q = rint(fma(b + z_b, S_b / S_out, fma(a + z_a, S_a / S_out, z_out - (S_a / S_out * z_a + S_b / S_out * z_b)))) - z_out,
  or with a and b exchanged: which operand comes first depends on the processor that the kernel was made for (`Order`)
- QLinearAveragePool: the mean of the dequantized codes, quantized again
- MatMulNBits with `accuracy_level` 4: in each block of inputs x of one example s = max |x| / 127, a = rint(x * (127 / max |x|)), and the output is
  the sum over blocks of s * S_w * sum a * w, in floats

A simulation in floats, such as Brevitas' own forward, rounds sums near a half differently, and a deep net carries such flips to its output; this
reference does not.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import torch
from torch import nn

from tsn_toolkit.export.integer_interpreter import Codes, Interpreter, Sum
from tsn_toolkit.quantizers.activations import IntegerModel

Order = Literal["first", "second"]
"""The operand of an addition that the kernel adds first."""
ORDERS: tuple[Order, ...] = ("first", "second")


class OnnxRuntimeArithmetic(Interpreter):
    """Additions as QLinearAdd computes them."""

    def __init__(self, reference: IntegerModel, order: Order = "first") -> None:
        super().__init__(reference)
        self.order = order
        self.blocks = {id(reference.module.get_submodule(name)): block for name, block in reference.blocks.items()}

    def accumulate(self, layer: nn.Module, x: Codes) -> Codes:
        block = self.blocks.get(id(layer))
        return super().accumulate(layer, x) if block is None else super().accumulate(layer, rounded_by_blocks(x, block))

    def operands(self, node: Any, first: Codes, second: Codes) -> Sum:
        return Sum(first, second) if self.order == "first" else Sum(second, first)

    def rounded(self, value: Sum, step: torch.Tensor, zero: float) -> torch.Tensor:
        return requantized_sum(value, step, zero)


def requantized_sum(value: Sum, step: torch.Tensor, zero: float) -> torch.Tensor:
    """Codes of a sum of two codes, not clipped; arguments as `Interpreter.rounded`."""
    first, second = value.first, value.second
    ratio_first, ratio_second = first.scale / step, second.scale / step
    zero_first, zero_second = 128.0 * first.signed, 128.0 * second.signed
    fixed = zero - (ratio_first * zero_first + ratio_second * zero_second)
    partial = _fused(first.value + zero_first, ratio_first, fixed)
    return torch.round(_fused(second.value + zero_second, ratio_second, partial)) - zero


def rounded_by_blocks(x: Codes, block: int) -> Codes:
    """The codes (..., features) as MatMulNBits reads them: rounded to 127 steps of each block's largest magnitude, in units of the same scale."""
    real = (x.value.to(torch.float32) * x.scale).unflatten(-1, (-1, block))
    largest = real.abs().amax(-1, keepdim=True)
    inverse = torch.where(largest > 0, 127.0 / largest, 0.0)
    rounded = torch.round(real * inverse).to(torch.float64) * (largest / 127.0).to(torch.float64)
    return replace(x, value=rounded.flatten(-2) / x.scale.to(torch.float64))


def _fused(value: torch.Tensor, factor: torch.Tensor, addend: torch.Tensor) -> torch.Tensor:
    """float32 of value * factor + addend with one rounding, as the processor's fused multiply-add."""
    return (value.to(torch.float64) * factor.to(torch.float64) + addend.to(torch.float64)).to(torch.float32)
