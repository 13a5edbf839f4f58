"""From the integer reference of a task to integer operations.

Brevitas' graph is walked node by node. What a layer, an addition or a mean computes has no step of its own: it stays pending until the quantizer
behind it says what to round to, so that every ReLU, ReLU6 or clip is the clip of that rounding. Norms were folded when the integer model was made.

A channel whose norm has a negative gain keeps the store's integers and gets a negative factor (see `fixed_point.py`), so tasks that share a layer in
the store share its bytes here as well.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from tsn_toolkit.errors import ExportError
from tsn_toolkit.export.c.fixed_point import fixed_point
from tsn_toolkit.export.c.geometry import average_window, layer_window, max_window, output_shape
from tsn_toolkit.export.c.layer_checks import check_accumulators, check_input
from tsn_toolkit.export.c.lookup import LOOKED_UP, Function, function_of, lookup, own_grid
from tsn_toolkit.export.c.operations import Add, Concat, Convolution, IntegerProgram, Operation, Pool, Rescale, Softmax, Tensor
from tsn_toolkit.export.c.softmax import PROBABILITY_STEP, powers_of
from tsn_toolkit.export.integer_interpreter import ADDITIONS, JOINS
from tsn_toolkit.quantizers.activations import IntegerModel
from tsn_toolkit.quantizers.brevitas_graph import activation_proxies, rectifies
from tsn_toolkit.quantizers.plain_calls import called_plain, operated_plain

_RESHAPES = (torch.flatten, torch.reshape, torch.squeeze, "flatten", "view", "reshape", "squeeze")
_POOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d)
_SOFTMAXES = (torch.softmax, functional.softmax, "softmax")
_SUPPORTED = (
    "Supported are conv 1-d and 2-d, linear, ReLU and clips, sigmoid, SiLU, hard swish and their like, softmax over a vector, max, average and "
    "global pooling, addition, concatenation and flatten."
)


@dataclass(frozen=True)
class _Pending:
    """A result that waits for its quantizer.

    Attributes:
        shape: of the result, without the batch; a reshape changes it.
        written: shape in which the operation writes the result.
        finish: makes the operation from the quantized result of shape `written`.
        grid: (step, signed) that hold all results, where the operation itself knows them; what reads them needs no quantizer then.
    """

    shape: tuple[int, ...]
    written: tuple[int, ...]
    finish: Callable[[Tensor], Operation]
    grid: tuple[float, bool] | None = None


_Value: TypeAlias = Tensor | _Pending


def lower(reference: IntegerModel, input_shape: Sequence[int]) -> IntegerProgram:
    """Integer operations of a task.

    Args:
        reference: from `build_integer_model`, in graph mode.
        input_shape: of one example without the batch: (channels, rows, columns), (channels, columns) or (features,).

    Raises:
        ExportError: the model is not in graph mode, holds an operation that has no integer rule here, or an accumulator may exceed int32.
    """
    if reference.mode != "graph":
        raise ExportError(
            f"A C program needs every activation quantized, but the model was quantized {reference.mode}{_without_rule(reference)}: "
            f"{' '.join(reference.notes)} {_SUPPORTED}"
        )
    with torch.no_grad():
        return _Lowering(reference).run(tuple(input_shape))


def _without_rule(reference: IntegerModel) -> str:
    """Torch's own layers of the model that have no integer rule here, in words; "" where every one has."""
    plain = (nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.Identity, nn.Dropout, nn.Flatten)
    ruled = (*plain, nn.ReLU, nn.ReLU6, nn.Hardtanh, nn.Softmax, *LOOKED_UP, *_POOLS)
    found = [
        f"`{name}` ({type(module).__name__})"
        for name, module in reference.module.named_modules()
        if type(module).__module__.startswith("torch.nn.") and not isinstance(module, ruled)
    ]
    return f", and {found[0]}" + (f" and {len(found) - 1} more have" if found[1:] else " has") + " no integer rule in C" if found else ""


class _Lowering:
    """Walks the graph; `operations` grows as quantizers are met."""

    def __init__(self, reference: IntegerModel) -> None:
        self.reference = reference
        proxies = activation_proxies(reference.module)
        self.owners = {id(reference.module.get_submodule(name)): proxy for name, proxy in proxies.items()}
        self.operations: list[Operation] = []
        self.input: Tensor | None = None

    def run(self, input_shape: tuple[int, ...]) -> IntegerProgram:
        values: dict[Any, Any] = {}
        graph: Any = self.reference.module.graph
        for node in graph.nodes:
            args, kwargs = _filled(node.args, values), _filled(node.kwargs, values)
            if node.op == "placeholder":
                if values:
                    raise ExportError(f"A C program takes one input, but the model has a second one, `{node.name}`. Export a model with one input.")
                values[node] = _Pending(input_shape, input_shape, _no_operation)
            elif node.op == "call_module":
                values[node] = self._module(node.target, node.name, next(iter((*args, *kwargs.values()))))
            elif node.op in ("call_function", "call_method"):
                values[node] = self._function(node.name, node.target, args, kwargs)
            elif node.op == "output":
                return self._finished(args[0])
            else:
                kind = "a parameter or buffer" if node.op == "get_attr" else node.op
                raise ExportError(f"`{node.name}` ({kind}) has no integer rule in C. {_SUPPORTED}")
        raise AssertionError("an fx graph ends in an output")

    def _module(self, name: str, buffer: str, value: Any) -> _Value:
        """`buffer` is the node's name: one module, for example a pooling or a quantizer, may be called by several nodes."""
        module = self.reference.module.get_submodule(name)
        if id(module) in self.owners:
            return self._quantized(name, buffer, value, self.owners[id(module)])
        if isinstance(module, nn.Flatten):
            return _reshaped(name, value, module)
        if isinstance(module, (nn.Identity, nn.Dropout)) and isinstance(value, (Tensor, _Pending)):
            return value
        tensor = self._tensor(name, buffer, value)
        if (function := function_of(module)) is not None:
            return _looked_up(name, tensor, function)
        if isinstance(module, nn.Softmax):
            return self._softmax(name, buffer, tensor, module.dim)
        if name in self.reference.codes:
            return self._layer(name, module, tensor)
        if isinstance(module, (nn.MaxPool1d, nn.MaxPool2d)):
            window = max_window(name, module)
            target = replace(tensor, buffer=buffer, shape=output_shape(name, tensor, tensor.planes[0], window))
            return self._write(Pool("max", tensor, target, window))
        if isinstance(module, (nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d)):
            return _averaged(name, module, tensor)
        raise ExportError(f"`{name}` ({type(module).__name__}) has no integer rule in C. {_SUPPORTED}")

    def _tensor(self, name: str, buffer: str, value: Any) -> Tensor:
        """An operand of `buffer`, written on its own grid where it is a result that no quantizer waits for."""
        if not isinstance(value, _Pending) or value.grid is None:
            return _require_tensor(name, value)
        step, signed = value.grid
        written = self._write(value.finish(Tensor(f"{buffer}_operand", value.written, step, signed)))
        return replace(written, shape=value.shape)

    def _softmax(self, name: str, buffer: str, source: Tensor, dim: int | None) -> Tensor:
        if len(source.shape) != 1 or dim not in (1, -1, None):
            raise ExportError(
                f"Softmax `{name}` runs over dimension {dim} of {1 + len(source.shape)}. In C it runs over the channels of a vector, dimension 1 of "
                "(batch, channels). Flatten what goes into it, or leave it out of the network."
            )
        target = Tensor(buffer, source.shape, PROBABILITY_STEP, signed=False)
        return self._write(Softmax(source, target, powers_of(source.step, where=name)))

    def _quantized(self, name: str, buffer: str, value: Any, proxy: Any) -> Tensor:
        if not isinstance(value, (Tensor, _Pending)):
            raise ExportError(f"Quantizer `{name}` meets a value that is not an activation. {_SUPPORTED}")
        if proxy.is_signed and rectifies(proxy):
            raise ExportError(
                f"`{name}` is a ReLU that is joined with values below 0, which has no rule in C. Put a ReLU on all that is joined, or on none."
            )
        tensor = Tensor(buffer, value.shape, step=float(proxy.scale().reshape(())), signed=bool(proxy.is_signed))
        if isinstance(value, Tensor):
            if (value.step, value.signed) == (tensor.step, tensor.signed):
                return value
            return self._write(Rescale(value, tensor, fixed_point(value.step / tensor.step, where=f"quantizer `{name}`")))
        if value.finish is not _no_operation:
            self._write(value.finish(replace(tensor, shape=value.written)))
        elif self.input is None:
            self.input = tensor
        else:
            raise ExportError(f"The input is quantized twice, the second time by `{name}`. Give the model one layer that reads the input.")
        return tensor

    def _layer(self, name: str, layer: Any, source: Tensor) -> _Pending:
        check_input(name, layer, source)
        sign = np.ones(len(self.reference.codes[name]), np.int64)
        sign[list(self.reference.negated[name])] = -1
        codes = self.reference.codes[name]
        codes = (codes * sign.reshape(-1, *[1] * (codes.ndim - 1))).astype(np.int8)
        steps = torch.tensor(source.step, dtype=torch.float32) * layer.quant_weight().scale.reshape(-1).to(torch.float32)
        bias = np.zeros(len(codes), np.int64)
        if layer.bias is not None:
            bias = torch.round((layer.bias.to(torch.float32) / steps).to(torch.float64)).to(torch.int64).numpy() * sign
        check_accumulators(name, codes, bias, source)
        window, groups = layer_window(name, layer)
        shape = output_shape(name, source, len(codes), window)

        def finish(target: Tensor) -> Operation:
            factors = fixed_point(steps.to(torch.float64).numpy() * sign / target.step, where=f"layer `{name}`")
            return Convolution(name, source, target, codes.reshape(*codes.shape[:2], *window.kernel), bias.astype(np.int32), factors, window, groups)

        return _Pending(shape, shape, finish)

    def _function(self, name: str, target: Any, args: Any, kwargs: Any) -> Any:
        if target in ADDITIONS and len(args) == 2 and not kwargs:
            return _added(name, _require_tensor(name, args[0]), _require_tensor(name, args[1]))
        if target in JOINS:
            return self._concatenated(name, *args, **kwargs)
        if target in _RESHAPES and args and isinstance(args[0], (Tensor, _Pending)):
            call = getattr(torch.Tensor, target) if isinstance(target, str) else target
            return _reshaped(name, args[0], lambda x: call(x, *args[1:], **kwargs))
        if target in (called_plain, operated_plain):
            target, args = args[0], args[1:]
        if target in _SOFTMAXES:
            given = inspect.signature(functional.softmax).bind(*args, **kwargs).arguments
            return self._softmax(name, name, self._tensor(name, name, given["input"]), given.get("dim"))
        if args and (function := function_of(target, args[1:], kwargs)) is not None:
            return _looked_up(name, self._tensor(name, name, args[0]), function)
        if target == "size" and isinstance(args[0], (Tensor, _Pending)):
            return torch.Size((1, *args[0].shape)) if len(args) == 1 else (1, *args[0].shape)[args[1]]
        raise ExportError(f"`{name}` ({getattr(target, '__name__', target)}) has no integer rule in C. {_SUPPORTED}")

    def _concatenated(self, name: str, tensors: Sequence[Any], dim: int = 0) -> Tensor:
        sources = tuple(_require_tensor(name, value) for value in tensors)
        first = sources[0]
        if dim % (len(first.shape) + 1) != 1:
            raise ExportError(f"`{name}` joins dimension {dim}. A C program can join channels, dimension 1, only.")
        kinds = {(source.step, source.signed) for source in sources}
        if len(kinds) > 1:
            raise ExportError(f"The operands of `{name}` have different steps or signs, {sorted(kinds)}. Put the same kind of activation on each.")
        channels = sum(source.shape[0] for source in sources)
        return self._write(Concat(sources, replace(first, buffer=name, shape=(channels, *first.shape[1:]))))

    def _write(self, operation: Operation) -> Tensor:
        self.operations.append(operation)
        return operation.target

    def _finished(self, value: Any) -> IntegerProgram:
        if isinstance(value, _Pending) and value.grid is not None:
            value = self._tensor("output", "output", value)
        if not isinstance(value, Tensor):
            raise ExportError("The output of the model is not one quantized activation, so it has no integer form. Return what a layer gives.")
        if self.input is None or value.buffer == self.input.buffer:
            raise ExportError("The model returns its input, so there is nothing to generate. Export a model with a layer.")
        return IntegerProgram(tuple(self.operations), self.input, value)


def _filled(argument: Any, values: dict[Any, Any]) -> Any:
    """An argument of a node with values in place of nodes; Brevitas has a node class of its own, so fx's function for this finds none."""
    if isinstance(argument, (tuple, list)):
        return type(argument)(_filled(item, values) for item in argument)
    if isinstance(argument, dict):
        return {key: _filled(item, values) for key, item in argument.items()}
    return values.get(argument, argument) if not isinstance(argument, slice) else argument


def _no_operation(target: Tensor) -> Operation:
    raise AssertionError(f"the caller of the program quantizes `{target.buffer}`")


def _require_tensor(name: str, value: Any) -> Tensor:
    if not isinstance(value, Tensor):
        raise ExportError(f"An operand of `{name}` is not a quantized activation. {_SUPPORTED}")
    return value


def _averaged(name: str, pool: Any, source: Tensor) -> _Pending:
    window = average_window(name, pool, source)
    count = window.kernel[0] * window.kernel[1]

    def finish(target: Tensor) -> Operation:
        return Pool("average", source, target, window, fixed_point(source.step / (target.step * count), where=f"pooling `{name}`"))

    shape = output_shape(name, source, source.planes[0], window)
    return _Pending(shape, shape, finish)


def _looked_up(name: str, source: Tensor, function: Function) -> _Pending:
    def finish(target: Tensor) -> Operation:
        return lookup(source, target, function, where=name)

    return _Pending(source.shape, source.shape, finish, own_grid(source, function, where=name))


def _added(name: str, first: Tensor, second: Tensor) -> _Pending:
    if first.shape != second.shape:
        raise ExportError(f"The operands of `{name}` have shapes {first.shape} and {second.shape}. In C an addition does not broadcast.")

    def finish(target: Tensor) -> Operation:
        factors = fixed_point([first.step / target.step, second.step / target.step], where=f"addition `{name}`", common_shift=True)
        return Add(first, second, target, factors)

    return _Pending(first.shape, first.shape, finish)


def _reshaped(name: str, value: Any, reshape: Callable[[torch.Tensor], torch.Tensor]) -> _Value:
    if not isinstance(value, (Tensor, _Pending)):
        raise ExportError(f"`{name}` reshapes a value that is not an activation. {_SUPPORTED}")
    batch, *shape = reshape(torch.empty((1, *value.shape), device="meta")).shape
    if batch != 1:
        raise ExportError(f"`{name}` reshapes the batch away. Keep dimension 0 as it is.")
    return replace(value, shape=tuple(shape))
