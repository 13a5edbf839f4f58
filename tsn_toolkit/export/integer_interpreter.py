"""Integer graphs, executed on integers: what the references of all integer runtimes have in common.

A Brevitas graph is run node by node on the store's integers. Convolutions and matrix products give exact int32 accumulators, quantizers round them
(half to even) into codes with scales in float32; a ReLU is the clip at 0 where its quantizer rounds. An operation without an integer rule is computed
on the real values. A runtime's own `Interpreter` says what it computes otherwise, above all how two codes are added and rounded again.

Accumulators are computed by floating-point convolution of integers, which is exact while every partial sum is below the mantissa: float32 where the
layer's bound allows it, else float64.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from tsn_toolkit.quantizers.activations import IntegerModel
from tsn_toolkit.quantizers.brevitas_graph import activation_proxies, rectifies
from tsn_toolkit.quantizers.plain_calls import parted, sliced

_EXACT_FLOAT32 = 2**24
ADDITIONS = (torch.add, operator.add, operator.iadd, "add", "add_")
RESHAPES = (torch.flatten, torch.reshape, torch.squeeze, torch.unsqueeze, "flatten", "view", "reshape", "squeeze", "unsqueeze")
JOINS = (torch.cat, torch.concat, torch.concatenate)
PRESERVING = (nn.MaxPool1d, nn.MaxPool2d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.ZeroPad1d, nn.ZeroPad2d, nn.Flatten, nn.Identity, nn.Dropout)
_AVERAGING = (nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d)

Admissible = Callable[[nn.Module, torch.Tensor], Iterator[tuple[NDArray[np.float32], str]]]
"""From an integer model and float32 inputs (n, ...) to pairs of outputs (n, ...) and the kind of their arithmetic."""


@dataclass(frozen=True)
class Codes:
    """Integers in a float tensor; real = scale * value, scale float32 (1,) or per channel shaped to broadcast.

    Attributes:
        value: the integers.
        scale: see above.
        signed: whether codes lie in [-128, 127] and not in [0, 255].
        accumulator: whether these are sums of products, which no quantizer has rounded yet.
        unrounded: of a rounded accumulator, the clipped value before rounding, in units of `scale`.
    """

    value: torch.Tensor
    scale: torch.Tensor
    signed: bool
    accumulator: bool = False
    unrounded: torch.Tensor | None = None


@dataclass(frozen=True)
class Sum:
    """Two codes that are added before they are rounded again, in the order in which the runtime adds."""

    first: Codes
    second: Codes


class Unknown(Exception):
    """An operation without an integer rule here."""


def interpret(interpreter: Interpreter, x: torch.Tensor, *, batch_size: int = 100) -> tuple[torch.Tensor, str]:
    """Outputs of an integer graph in batches.

    Args:
        interpreter: of the runtime.
        x: float32 inputs (n, ...).
        batch_size: examples per pass; has no influence on the result.

    Returns:
        (outputs, kind): float32 outputs (n, ...) and `integer`, or `simulated` where the model holds an operation without an integer rule: it is
        computed on the real values, or, where a layer reads what is not quantized, all is by Brevitas' float simulation.
    """
    chunks = x.split(batch_size)
    with torch.no_grad():
        try:
            return torch.cat([interpreter.run(chunk) for chunk in chunks]), "simulated" if interpreter.simulated else "integer"
        except Unknown:
            return torch.cat([interpreter.reference(chunk) for chunk in chunks]).detach(), "simulated"


def admissible_by(*arithmetics: Callable[[IntegerModel], Interpreter]) -> Admissible:
    """The member `admissible_outputs` of an integer runtime, see `export.runtime`.

    Args:
        arithmetics: what makes an interpreter, for each of the arithmetics that a processor may choose.
    """

    def admissible_outputs(reference: nn.Module, x: torch.Tensor) -> Iterator[tuple[NDArray[np.float32], str]]:
        assert isinstance(reference, IntegerModel)
        for arithmetic in arithmetics:
            outputs, kind = interpret(arithmetic(reference), x)
            yield outputs.numpy(), kind

    return admissible_outputs


class Interpreter:
    """Runs the Brevitas graph node by node on integers, with the plainest arithmetic; a runtime overrides what it does otherwise."""

    def __init__(self, reference: IntegerModel) -> None:
        self.reference = reference
        self.simulated = False
        self.proxies = activation_proxies(reference.module) if reference.mode == "graph" else {}
        self.owners = {id(reference.module.get_submodule(name)): proxy for name, proxy in self.proxies.items()}

    def quantized(self, value: torch.Tensor, step: torch.Tensor, zero: float) -> torch.Tensor:
        """Codes of floats, rint(x / step), not yet clipped; arguments as `rounded`."""
        return torch.round(value / step)

    def operands(self, node: Any, first: Codes, second: Codes) -> Sum:
        """The operands of the addition `node` as the runtime takes them; else as the graph has them."""
        return Sum(first, second)

    def rounded(self, value: Sum, step: torch.Tensor, zero: float) -> torch.Tensor:
        """Codes of a sum, rint(a * (S_a / step) + b * (S_b / step)), not yet clipped.

        Args:
            value: what `operands` gave.
            step: float32 scale of the codes.
            zero: 128 where the codes are signed, else 0; runtimes store signed codes with it added.
        """
        return torch.round(value.first.value * (value.first.scale / step) + value.second.value * (value.second.scale / step))

    def grid(self, proxy: Any) -> tuple[torch.Tensor, float, float, float]:
        """(step, zero, low, high) of an activation quantizer: float32 scale, what runtimes add to a stored code, and the limits of a code."""
        step = proxy.scale().detach().to(torch.float32).reshape(())
        return (step, 128.0, -128.0, 127.0) if proxy.is_signed else (step, 0.0, 0.0, 255.0)

    def accumulate(self, layer: nn.Module, x: Codes) -> Codes:
        """Integer accumulators of a layer for codes x, the bias included as an integer."""
        codes = products(layer, x)
        if layer.bias is None:
            return codes
        bias = torch.round((layer.bias.detach().to(torch.float32) / codes.scale.reshape(-1)).to(torch.float64))
        return replace(codes, value=codes.value + bias.reshape(codes.scale.shape))

    def run(self, x: torch.Tensor) -> torch.Tensor:
        """Outputs of one batch; `Unknown` for an operation without an integer rule."""
        if self.reference.mode != "graph":
            raise Unknown(self.reference.mode)
        values: dict[Any, Any] = {}
        for node in self.reference.module.graph.nodes:
            args, kwargs = arguments(node, values)
            if node.op == "placeholder":
                values[node] = x
            elif node.op == "call_module":
                values[node] = self._module(node.target, args)
            elif node.op in ("call_function", "call_method"):
                values[node] = self._function(node, args, kwargs)
            elif node.op == "get_attr":  # a free parameter or a constant, which the runtime keeps in float
                values[node] = _tensor_of(self.reference.module, node.target)
            elif node.op == "output":
                result = values.get(node.args[0])
                if not isinstance(result, Codes) or result.accumulator:
                    raise Unknown("the output is not quantized")
                return result.value.to(torch.float32) * result.scale
            else:
                raise Unknown(node.op)
        raise Unknown("the graph has no output")

    def _module(self, name: str, args: list[Any]) -> Any:
        module = self.reference.module.get_submodule(name)
        if id(module) in self.owners:
            return self._quantize(args[0], self.owners[id(module)])
        value = args[0]
        rounded = isinstance(value, Codes) and not value.accumulator
        if name in self.reference.codes:
            if not rounded:
                raise Unknown(name)
            return self.accumulate(module, value)
        if rounded and isinstance(module, PRESERVING):
            return Codes(module(value.value), value.scale, value.signed)
        if rounded and isinstance(module, _AVERAGING):
            return module(value.value.to(torch.float32) * value.scale)
        return self._in_floats(module, args, {})

    def _in_floats(self, function: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]) -> Any:
        """What an operation without an integer rule makes of the real values, as runtimes compute it."""
        self.simulated = True
        return function(*(_real(arg) for arg in args), **{name: _real(arg) for name, arg in kwargs.items()})

    def _function(self, node: Any, args: list[Any], kwargs: dict[str, Any]) -> Any:
        target = node.target
        if target in ADDITIONS:
            if len(args) == 2 and all(isinstance(arg, Codes) and not arg.accumulator for arg in args) and not kwargs:
                return self.operands(node, args[0], args[1])
        elif target is sliced and isinstance(args[0], tuple):
            return args[0][args[1]]
        elif target in (sliced, parted):
            value = args[0] if target is sliced else args[1]
            if isinstance(value, Codes) and not value.accumulator:
                parts = target(*(arg.value if arg is value else arg for arg in args), **kwargs)
                codes = [Codes(part, value.scale, value.signed) for part in (parts if isinstance(parts, tuple) else (parts,))]
                return tuple(codes) if isinstance(parts, tuple) else codes[0]
        elif target is F.pad:
            if isinstance(args[0], Codes) and not args[0].accumulator and pads_zeros(*args[2:], **kwargs):
                return Codes(F.pad(args[0].value, *args[1:], **kwargs), args[0].scale, args[0].signed)
        elif target in JOINS:
            parts = args[0]
            rounded = all(isinstance(part, Codes) and not part.accumulator for part in parts)
            if rounded and len({(part.signed, float(part.scale)) for part in parts}) == 1:
                return Codes(target([part.value for part in parts], *args[1:], **kwargs), parts[0].scale, parts[0].signed)
        elif target in RESHAPES:
            if isinstance(args[0], torch.Tensor):  # a mean that is quantized only after it is reshaped
                return _reshape(args[0], target, args[1:], kwargs)
            if isinstance(args[0], Codes) and args[0].scale.numel() == 1:
                return Codes(_reshape(args[0].value, target, args[1:], kwargs), args[0].scale, args[0].signed)
        if isinstance(target, str):
            return self._in_floats(getattr(torch.Tensor, target), args, kwargs)
        return self._in_floats(target, args, kwargs)

    def _quantize(self, value: Any, proxy: nn.Module) -> Codes:
        """Codes of one activation quantizer from floats, accumulators, codes of another scale, or a sum of codes."""
        step, zero, low, high = self.grid(proxy)
        low = max(low, 0.0) if rectifies(proxy) else low
        signed = bool(proxy.is_signed)
        unrounded = None
        if isinstance(value, Sum):
            codes = self.rounded(value, step, zero)
        elif isinstance(value, Codes) and value.accumulator:
            real = value.value.to(torch.float32) * (value.scale / step)
            codes, unrounded = torch.round(real), real.clamp(low, high)
        elif isinstance(value, Codes):
            codes = torch.round(value.value.to(torch.float32) * value.scale / step)
        else:
            codes = self.quantized(value, step, zero)
        return Codes(codes.clamp(low, high).to(torch.float32), step, signed, unrounded=unrounded)


def pads_zeros(mode: str = "constant", value: float | None = None, *, pad: Any = None) -> bool:
    """Whether a call of `pad` puts zeros around, by its arguments behind the tensor."""
    return mode == "constant" and not value


def arguments(node: Any, values: Mapping[Any, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Arguments of a graph's node by position and by name, with what was computed in place of nodes; the tensors of a join come by position."""
    by_position, by_name = list(node.args), dict(node.kwargs)
    if "tensors" in by_name:
        by_position.insert(0, by_name.pop("tensors"))
    return [_resolved(argument, values) for argument in by_position], by_name


def _tensor_of(module: nn.Module, path: str) -> torch.Tensor:
    """The parameter or buffer at a path."""
    owner, _, name = path.rpartition(".")
    tensor = getattr(module.get_submodule(owner), name)
    if not isinstance(tensor, torch.Tensor):
        raise Unknown(path)
    return tensor.detach()


def _resolved(argument: Any, values: Mapping[Any, Any]) -> Any:
    if isinstance(argument, list | tuple):
        return [_resolved(part, values) for part in argument]
    return values.get(argument, argument) if isinstance(argument, Hashable) else argument


def _real(value: Any) -> Any:
    """Real numbers in place of codes, also of those in a list."""
    if isinstance(value, Codes):
        return (value.value * value.scale).to(torch.float32)
    if isinstance(value, Sum):
        return _real(value.first) + _real(value.second)
    return type(value)(map(_real, value)) if isinstance(value, list | tuple) and not isinstance(value, torch.Size) else value


def _reshape(value: torch.Tensor, target: Any, args: list[Any], kwargs: dict[str, Any]) -> torch.Tensor:
    result = getattr(value, target)(*args, **kwargs) if isinstance(target, str) else target(value, *args, **kwargs)
    assert isinstance(result, torch.Tensor)
    return result


def products(layer: nn.Module, x: Codes) -> Codes:
    """Exact sums of a layer's products, without its bias; the scale is float32, per channel, shaped to broadcast."""
    quantized = layer.quant_weight()
    weight = quantized.int().to(torch.float64)
    dims = x.value.dim()
    scale = (x.scale * quantized.scale.reshape(-1).to(torch.float32)).to(torch.float32)
    bound = float(weight.abs().flatten(1).sum(1).max()) * 255.0
    kind = torch.float32 if bound < _EXACT_FLOAT32 else torch.float64
    value, weight = x.value.to(kind), weight.to(kind)
    if isinstance(layer, nn.Linear):
        result = F.linear(value, weight)
        shape = (1,) * (dims - 1) + (-1,)
    else:
        convolve = F.conv1d if dims == 3 else F.conv2d
        if layer.padding_mode != "zeros" or isinstance(layer.padding, str):
            raise Unknown("padding")
        result = convolve(value, weight, None, layer.stride, layer.padding, layer.dilation, layer.groups)
        shape = (1, -1) + (1,) * (dims - 2)
    return Codes(result.to(torch.float64), scale.reshape(shape), True, accumulator=True)
