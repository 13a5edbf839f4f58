"""Linear layers whose weights obey 2:4, as float16: what a GPU's sparse tensor cores take, two of every four inputs with two bits of place each.

torch compresses such a weight on the GPU alone, so a file holds it dense, and who loads the program compresses it. Layers that do not obey the
pattern, or that have no kernel, stay float32: a compression would drop their third and fourth weight without a word.

Around a compressed layer inputs and the product are rounded to float16 once each; bias, and everything else, is float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from tsn_toolkit.contracts import ExtractedModel

PATTERN = "2:4"
ROWS, COLUMNS = 32, 64
"""Outputs and inputs must be multiples: what both of torch's libraries, cuSPARSELt (16, 16) and CUTLASS (32, 64), take of float16 weights."""


@dataclass(frozen=True)
class SparseLayers:
    """Which layers can be compressed.

    Attributes:
        kept: linear layers that obey the pattern and have a kernel.
        dense: every other layer, with the reason.
    """

    kept: tuple[str, ...]
    dense: Mapping[str, str]


class HalfLinear(nn.Linear):
    """A linear layer whose product is computed in float16.

    Args:
        weight: float16 (outputs, inputs); a compressed tensor may take its place.
        bias: float32 (outputs,) or None.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
        self.weight = nn.Parameter(weight, requires_grad=False)
        if bias is not None:
            self.bias = nn.Parameter(bias, requires_grad=False)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """float32 (..., outputs) of float32 (..., inputs)."""
        product = functional.linear(input.to(torch.float16), self.weight).to(torch.float32)
        return product if self.bias is None else product + self.bias


def sparse_layers(extracted: ExtractedModel) -> SparseLayers:
    """The layers of a task, by what they are, their shapes, and where their integers are 0."""
    reasons = {name: _reason(extracted.model.get_submodule(name), codes, extracted.scale[name]) for name, codes in extracted.q.items()}
    return SparseLayers(tuple(name for name, reason in reasons.items() if not reason), {name: reason for name, reason in reasons.items() if reason})


def with_half_linear(model: nn.Module, extracted: ExtractedModel, layers: tuple[str, ...]) -> nn.Module:
    """Puts `HalfLinear` in place of linear layers.

    Args:
        model: the task's module with weights scale * q; changed and returned, unless it is itself the layer.
        extracted: with the integers and scales.
        layers: from `sparse_layers`.
    """
    for name in layers:
        layer = model.get_submodule(name)
        weight = torch.from_numpy(half_weight(extracted.q[name], extracted.scale[name]))
        half = HalfLinear(weight, None if layer.bias is None else layer.bias.detach().to(torch.float32))
        if not name:
            return half
        parent, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(parent), attribute, half)
    return model


def half_weight(codes: NDArray[np.int8], scale: NDArray[np.float32]) -> NDArray[np.float16]:
    """float16 (outputs, inputs): scale * q in float32, rounded to nearest."""
    with np.errstate(over="ignore"):
        return (np.asarray(scale, np.float32).reshape(-1, 1) * codes.astype(np.float32)).astype(np.float16)


def densest_group(codes: NDArray[np.int8]) -> int:
    """Most weights that are not 0 among four inputs in a row; inputs are a multiple of four.

    >>> densest_group(np.array([[1, 0, 0, 2, 0, 3, 0, 4]], np.int8))
    2
    """
    return int(_weights_in_groups(codes).max())


def _weights_in_groups(codes: NDArray[np.int8]) -> NDArray[np.int64]:
    """How many of every four inputs in a row have a weight that is not 0: (outputs, inputs / 4)."""
    counts: NDArray[np.int64] = (codes.reshape(len(codes), -1, 4) != 0).sum(2)
    return counts


def _reason(layer: nn.Module, codes: NDArray[np.int8], scale: NDArray[np.float32]) -> str:
    """Why a layer stays dense, or ""."""
    if type(layer) is not nn.Linear:
        return f"a {type(layer).__name__} has no kernel"
    outputs, inputs = codes.shape
    if outputs % ROWS or inputs % COLUMNS:
        return f"{outputs} x {inputs} weights; the kernels take multiples of {ROWS} outputs and {COLUMNS} inputs"
    groups = _weights_in_groups(codes)
    if (groups > 2).any():
        return f"{int((groups > 2).sum()):,} of {groups.size:,} groups of four inputs have more than two weights"
    if not np.isfinite(half_weight(codes, scale)).all():
        return "a weight is beyond what float16 holds"
    return ""
