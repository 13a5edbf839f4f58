"""Calls in a Brevitas graph that Brevitas' quantized tensors do not understand, replaced by functions that do.

A quantized tensor is a named tuple of a value, a scale and more. Torch's functions know it; Python's operators and methods do not: an index would
choose a member of the tuple, and a method that it lacks would be missing. What takes a tensor apart keeps the quantization of its parts; all else
gets the plain value.
"""

from __future__ import annotations

import operator
from typing import Any

import torch

PARTING = ("chunk", "split", "unbind", "narrow", "select")
"""Methods of a tensor, and functions of torch, that give parts of it."""
_KEPT = (operator.add, operator.iadd)
"""Operators that quantized tensors have, and that quantizers are placed for."""


def sliced(value: Any, index: Any) -> Any:
    """value[index] of a tensor, a quantized tensor, or a tuple of them."""
    index = tuple(index) if isinstance(index, list) else index  # some ways of running a graph make lists of tuples
    return value.set(value=value.value[index]) if _is_quantized(value) else value[index]


def parted(method: str, value: Any, *args: Any, **kwargs: Any) -> Any:
    """A method of `PARTING`; the parts of a quantized tensor are quantized as it is."""
    if not _is_quantized(value):
        return getattr(value, method)(*args, **kwargs)
    found = getattr(value.value, method)(*args, **kwargs)
    return value.set(value=found) if isinstance(found, torch.Tensor) else tuple(value.set(value=part) for part in found)


def called_plain(method: str, value: Any, *args: Any, **kwargs: Any) -> Any:
    """A method of a plain value in place of a quantized one, and so its arguments."""
    return getattr(_plain(value), method)(*(_plain(arg) for arg in args), **{name: _plain(arg) for name, arg in kwargs.items()})


def operated_plain(name: str, *args: Any) -> Any:
    """A function of module `operator` of plain values in place of quantized ones."""
    return getattr(operator, name)(*(_plain(arg) for arg in args))


def with_plain_calls_(graph: Any) -> None:
    """Replaces, in place, the calls of a Brevitas graph module after its quantizers have been placed."""
    from brevitas.quant_tensor import IntQuantTensor

    for node in graph.graph.nodes:
        if node.op == "call_function" and node.target is operator.getitem:
            node.target = sliced
        elif node.op == "call_method" and node.target in PARTING:
            node.op, node.target, node.args = "call_function", parted, (node.target, *node.args)
        elif node.op == "call_function" and node.target in _PARTING_FUNCTIONS:
            node.target, node.args = parted, (_PARTING_FUNCTIONS[node.target], *node.args)
        elif node.op == "call_method" and not hasattr(IntQuantTensor, node.target):
            node.op, node.target, node.args = "call_function", called_plain, (node.target, *node.args)
        elif node.op == "call_function" and node.target not in _KEPT and getattr(node.target, "__module__", "") == "_operator":
            node.target, node.args = operated_plain, (node.target.__name__, *node.args)
    graph.recompile()


_PARTING_FUNCTIONS: dict[Any, str] = {getattr(torch, name): name for name in PARTING}


def _is_quantized(value: Any) -> bool:
    return hasattr(value, "bit_width") and hasattr(value, "value")


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value.value if _is_quantized(value) else value
