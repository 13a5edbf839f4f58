"""The integer reference of OpenVINO's CPU arithmetic, computed from the store's integers and never from the exported file.

Measured with OpenVINO 2026.4 on codes of at most 63 (see `hw_targets/cpu_openvino.yaml`), symbols as in `onnxruntime_arithmetic`:

- a float becomes q = rint(x * (1 / S) + z) - z, where z is 128 for signed codes, else 0
- convolutions and matrix products accumulate exactly in int32 and are rounded like ONNX Runtime's
- an addition becomes part of the convolution before it, where one of its operands is the rounded output of a convolution that nothing else reads and
  that does not read the other operand. That operand is then not rounded before the addition, only clipped:
  q = rint(clip(float32(acc) * (S_in * S_w[c] / S_a)) * S_a / S_out + b * S_b / S_out)
- any other addition adds the rounded codes; averages as in ONNX Runtime

Where both operands could take the addition, one of them does (`Fusion`). What is left are sums within a last bit of a half, which OpenVINO's order of
float32 operations decides otherwise than this reference: 1 to 6 codes in 10^6 of a residual block. A deep network carries them to its output.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import torch

from tsn_toolkit.export.integer_interpreter import Codes, Interpreter, Sum
from tsn_toolkit.quantizers.activations import IntegerModel

Fusion = Literal["first", "second", "none"]
"""The operand whose convolution takes the addition where both could; `none`: additions stand alone."""
FUSIONS: tuple[Fusion, ...] = ("first", "second", "none")


class OpenVinoArithmetic(Interpreter):
    """Additions inside convolutions."""

    def __init__(self, reference: IntegerModel, fusion: Fusion = "first") -> None:
        super().__init__(reference)
        self.fusion = fusion

    def quantized(self, value: torch.Tensor, step: torch.Tensor, zero: float) -> torch.Tensor:
        return torch.round(value * (1 / step) + zero) - zero

    def operands(self, node: Any, first: Codes, second: Codes) -> Sum:
        fits = [_takes_addition(node.args[0], first, node.args[1]), _takes_addition(node.args[1], second, node.args[0])]
        if self.fusion == "none" or not any(fits):
            return Sum(first, second)
        if fits[0] and (self.fusion == "first" or not fits[1]):
            return Sum(_without_rounding(first), second)
        return Sum(first, _without_rounding(second))


def _takes_addition(operand: Any, codes: Codes, other: Any) -> bool:
    """Whether the operand's convolution can take the addition of `other`; both are nodes of the graph."""
    return codes.unrounded is not None and len(operand.users) == 1 and operand.args[0].args[0] is not other


def _without_rounding(codes: Codes) -> Codes:
    assert codes.unrounded is not None
    return replace(codes, value=codes.unrounded)
