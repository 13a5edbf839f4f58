"""Activations that are no clip, as tables of 256 bytes: for each code of the input the code of the result, computed here in float64.

Which functions have one: those that give a value for each value alone. Program and reference read the same table, so they agree by construction.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from tsn_toolkit.errors import ExportError
from tsn_toolkit.export.c.operations import Lookup, Tensor

LOOKED_UP = (nn.Sigmoid, nn.Hardsigmoid, nn.SiLU, nn.Hardswish, nn.Tanh, nn.GELU, nn.ELU, nn.LeakyReLU, nn.Mish, nn.Softplus, nn.LogSigmoid)
_FUNCTIONS = (torch.sigmoid, torch.tanh, F.sigmoid, F.tanh, F.hardsigmoid, F.silu, F.hardswish, F.gelu, F.elu, F.leaky_relu, F.mish, F.softplus)
_METHODS = ("sigmoid", "tanh")

Function = Callable[[torch.Tensor], torch.Tensor]
"""From float64 (n,) to float64 (n,), value by value."""


def function_of(call: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None) -> Function | None:
    """The function of a module or a call, None where it has no table.

    Args:
        call: a module, a function, or the name of a method of a tensor.
        args, kwargs: of a call, behind the tensor.
    """
    if isinstance(call, LOOKED_UP):
        return copy.deepcopy(call).to(torch.float64)
    if call in _FUNCTIONS or call in _METHODS:
        function = getattr(torch.Tensor, call) if isinstance(call, str) else call
        return lambda x: function(x, *args, **(kwargs or {}))
    return None


def own_grid(source: Tensor, function: Function, *, where: str) -> tuple[float, bool]:
    """(step, signed) that just hold all results, for what nothing else gives a step.

    Raises:
        ExportError: a result is not finite.
    """
    results = _results(source, function, where)
    signed = bool((results < 0).any())
    largest = float(np.abs(results).max()) or 1.0
    return largest / (127 if signed else 255), signed


def lookup(source: Tensor, target: Tensor, function: Function, *, where: str) -> Lookup:
    """target = clip(floor(function(step * code) / target step + 1/2)) for every code of the source.

    Raises:
        ExportError: a result is not finite.
    """
    codes = np.floor(_results(source, function, where) / target.step + 0.5)
    lowest = target.offset - 128
    return Lookup(source, target, (np.clip(codes, lowest, lowest + 255) - target.offset).astype(np.int8))


def _results(source: Tensor, function: Function, where: str) -> NDArray[np.float64]:
    """float64 (256,), of the codes that bytes -128 to 127 stand for."""
    values = (np.arange(-128, 128, dtype=np.float64) + source.offset) * source.step
    with torch.no_grad():
        results: NDArray[np.float64] = function(torch.from_numpy(values.copy())).numpy()
    if not np.isfinite(results).all():
        raise ExportError(f"`{where}` is not finite for every value in [{values[0]:g}, {values[-1]:g}], so it has no table. Use another activation.")
    return results
