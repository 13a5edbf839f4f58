"""The reference of TensorRT's explicit quantization, computed from the store's integers and never from the exported file.

Symbols as in `onnxruntime_arithmetic`. TensorRT's codes are signed and symmetric, so a stored range of unsigned codes in [0, 255] with scale S
becomes codes in [0, 127] with scale S * 255 / 127, which reach as far. Then

- a float becomes q = rint(x / S), clipped to [-128, 127]
- convolutions and matrix products: q = rint((sum a * w + b / (S_in * S_w[c])) * (S_in * S_w[c] / S_out)), the bias b a float
- additions: q = rint(a * (S_a / S_out) + b * (S_b / S_out))

NVIDIA documents the rounding (half to even) but not in which order the float operations run; sums near a half may be rounded otherwise.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from tsn_toolkit.export.integer_interpreter import Codes, Interpreter, products

UNSIGNED_TO_SIGNED = 255 / 127
"""Factor from the scale of codes in [0, 255] to that of codes in [0, 127] with the same range."""


class TensorRtArithmetic(Interpreter):
    """Signed codes throughout, biases in float."""

    def grid(self, proxy: Any) -> tuple[torch.Tensor, float, float, float]:
        step = proxy.scale().detach().to(torch.float32).reshape(())
        return (step, 0.0, -128.0, 127.0) if proxy.is_signed else (step * UNSIGNED_TO_SIGNED, 0.0, 0.0, 127.0)

    def accumulate(self, layer: nn.Module, x: Codes) -> Codes:
        codes = products(layer, x)
        if layer.bias is None:
            return codes
        bias = layer.bias.detach().to(torch.float64).reshape(codes.scale.shape) / codes.scale.to(torch.float64)
        return replace(codes, value=codes.value + bias)
