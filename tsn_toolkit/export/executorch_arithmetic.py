"""The reference of XNNPACK's int8 arithmetic as ExecuTorch runs it, computed from the store's integers and never from the exported file.

Symbols as in `onnxruntime_arithmetic`:

- a float becomes q = rint(x * (1 / S))
- convolutions and matrix products are rounded like ONNX Runtime's
- additions run in fixed point: multipliers m = rint(S_operand / S_out * 2^s), where s makes the larger one lie in [2^20, 2^21), and
  q = (a * m_a + b * m_b + 2^(s-1)) >> s, rounded down
- what XNNPACK does not take (averages) is computed on dequantized floats, and rounded by the next quantizer
"""

from __future__ import annotations

import math

import torch

from tsn_toolkit.export.integer_interpreter import Interpreter, Sum

_MULTIPLIER_BITS = 20


class XnnpackArithmetic(Interpreter):
    """Additions in fixed point."""

    def quantized(self, value: torch.Tensor, step: torch.Tensor, zero: float) -> torch.Tensor:
        return torch.round(value * (1 / step))

    def rounded(self, value: Sum, step: torch.Tensor, zero: float) -> torch.Tensor:
        ratios = [float(codes.scale / step) for codes in (value.first, value.second)]
        shift = _MULTIPLIER_BITS - (math.frexp(max(ratios))[1] - 1)
        first, second = (round(ratio * 2**shift) for ratio in ratios)
        total = value.first.value.to(torch.int64) * first + value.second.value.to(torch.int64) * second
        return torch.div(total + 2 ** (shift - 1), 2**shift, rounding_mode="floor").to(torch.float32)
