"""The C function of one task, its part of the header, and where its activations lie in memory."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping

from tsn_toolkit.export.c.arena import Lifetime, plan_arena
from tsn_toolkit.export.c.constants import Constants, number_lines
from tsn_toolkit.export.c.layer_weights import LayerWeights
from tsn_toolkit.export.c.operations import (
    Add,
    Concat,
    Convolution,
    IntegerProgram,
    Lookup,
    Operation,
    Pool,
    Rescale,
    Softmax,
    Tensor,
    Window,
)
from tsn_toolkit.export.c.softmax import powers_of
from tsn_toolkit.export.c.templates import fill


class TaskText:
    """Writes the function of one task and adds its arrays to the constants of all tasks.

    Args:
        name: C identifier of the task.
        index: number of the task in the program.
        program: its operations.
        weights: layer -> its weights in flash.
        constants: of all tasks.

    Attributes:
        arena: addresses of its activations.
        kernels: the kernels that it calls, one entry per call.
        calls: C expressions, one per call.
        weight_records: layer -> name of its `tsn_weights` record.
    """

    def __init__(self, name: str, index: int, program: IntegerProgram, weights: Mapping[str, LayerWeights], constants: Constants) -> None:
        self.name, self.index, self.program, self.weights, self.constants = name, index, program, weights, constants
        self.arena = plan_arena(lifetimes(program, weights))
        self.kernels: list[str] = []
        self.weight_records: dict[str, str] = {}
        self.calls = [call for index, operation in enumerate(program.operations) for call in self._calls(index, operation)]

    def function(self) -> str:
        """The C function."""
        calls = "\n".join(
            textwrap.fill(f"{call};", 120, initial_indent="    ", subsequent_indent="        ", break_on_hyphens=False, break_long_words=False)
            for call in self.calls
        )
        return fill("task.c", name=self.name, calls=calls, output_size=self.program.target.size)

    @property
    def has_softmax(self) -> bool:
        """Whether its outputs are a vector that is not probabilities already."""
        return len(self.program.target.shape) == 1 and not isinstance(self.program.operations[-1], Softmax)

    def answers(self) -> str:
        """The C functions of what can be said of its outputs."""
        size = self.program.target.size
        functions = [fill("task_argmax.c", name=self.name, size=size)]
        if self.has_softmax:
            powers = number_lines(powers_of(self.program.target.step, where=self.name), indent=8)
            functions.append(fill("task_softmax.c", name=self.name, size=size, powers=powers))
        return "\n".join(functions)

    def header(self) -> str:
        """Its declarations and sizes."""
        source, target = self.program.source, self.program.target
        answers = [fill(f"{name}.h", name=self.name) for name in ("task_argmax", *(["task_softmax"] if self.has_softmax else []))]
        return "\n".join([self._header(source, target), *answers])

    def _header(self, source: Tensor, target: Tensor) -> str:
        return fill(
            "task.h",
            name=self.name,
            index=self.index,
            title=self.name,
            macro=self.name.upper(),
            input_shape=_by(source.shape),
            output_shape=_by(target.shape),
            input_size=source.size,
            output_size=target.size,
            input_step=_float_literal(source.step),
            output_step=_float_literal(target.step),
            input_offset=source.offset,
            output_offset=target.offset,
        )

    def _calls(self, index: int, operation: Operation) -> list[str]:
        target = self._address(operation.target)
        if isinstance(operation, Convolution):
            return [self._convolution(index, operation)]
        if isinstance(operation, Pool):
            geometry = self._geometry(operation.target.buffer, operation.source, operation.target, operation.window)
            source = self._address(operation.source)
            if operation.factor is None:
                return [self._call("max_pool", geometry, source, target)]
            return [self._call("average_pool", geometry, source, operation.factor.multipliers[0], operation.factor.shifts[0], target)]
        if isinstance(operation, Add):
            operands: list[object] = []
            for tensor, multiplier in zip(operation.sources, operation.factors.multipliers):
                operands += [self._address(tensor), tensor.offset, multiplier]
            return [self._call("add", *operands, operation.factors.shifts[0], operation.target.size, operation.target.offset, target)]
        if isinstance(operation, Rescale):
            factor = operation.factor
            scaling = (operation.source.offset, factor.multipliers[0], factor.shifts[0], operation.source.size, operation.target.offset)
            return [self._call("rescale", self._address(operation.source), *scaling, target)]
        if isinstance(operation, Lookup):
            table = self.constants.add(f"tsn_{self.name}_{identifier(operation.target.buffer)}_table", "int8_t", operation.table)
            return [self._call("lookup", self._address(operation.source), table, operation.source.size, target)]
        if isinstance(operation, Softmax):
            powers = self.constants.add(f"tsn_{self.name}_{identifier(operation.target.buffer)}_powers", "uint32_t", operation.powers)
            return [self._call("softmax", self._address(operation.source), powers, operation.source.size, target)]
        return self._copies(operation)

    def _convolution(self, index: int, operation: Convolution) -> str:
        weights, name = self.weights[operation.layer], f"tsn_{self.name}_{identifier(operation.layer)}"
        geometry = self._geometry(operation.layer, operation.source, operation.target, operation.window, operation.groups)
        record = self.constants.add_weights(name, weights)
        self.weight_records[operation.layer] = record
        return self._call(
            "convolution",
            geometry,
            self._address(operation.source),
            f"&{record}",
            self.constants.add(f"{name}_bias", "int32_t", operation.bias),
            self.constants.add(f"{name}_multipliers", "int32_t", operation.factors.multipliers),
            self.constants.add(f"{name}_shifts", "uint8_t", operation.factors.shifts),
            "0" if weights.read_in_place else f"arena + {self.arena.offsets[_row_buffer(index)]}",
            self._address(operation.target),
        )

    def _copies(self, operation: Concat) -> list[str]:
        calls, start = [], 0
        for source in operation.sources:
            calls.append(self._call("copy", self._address(source), source.size, f"{self._address(operation.target)} + {start}"))
            start += source.size
        return calls

    def _geometry(self, name: str, source: Tensor, target: Tensor, window: Window, groups: int = 1) -> str:
        values = (*source.planes, *target.planes, *window.kernel, *window.stride, *window.padding, *window.dilation)
        fields = (*values, groups, source.offset, target.offset)
        return "&" + self.constants.add_record(f"tsn_{self.name}_{identifier(name)}_geometry", "tsn_geometry", fields)

    def _call(self, kernel: str, *arguments: object) -> str:
        self.kernels.append(kernel)
        return f"{kernel}({', '.join(str(argument) for argument in arguments)})"

    def _address(self, tensor: Tensor) -> str:
        if tensor.buffer == self.program.source.buffer:
            return "input"
        return "output" if tensor.buffer == self.program.target.buffer else f"arena + {self.arena.offsets[tensor.buffer]}"


def lifetimes(program: IntegerProgram, weights: Mapping[str, LayerWeights]) -> list[Lifetime]:
    """Of all activations but the caller's input and output, and of the rows that weights are decoded to; a step is an operation."""
    last = {source.buffer: index for index, operation in enumerate(program.operations) for source in operation.sources}
    own = {program.source.buffer, program.target.buffer}
    found = []
    for index, operation in enumerate(program.operations):
        target = operation.target
        if target.buffer not in own:
            found.append(Lifetime(target.buffer, target.size, index, last.get(target.buffer, index)))
        if isinstance(operation, Convolution) and not weights[operation.layer].read_in_place:
            found.append(Lifetime(_row_buffer(index), weights[operation.layer].values.shape[1], index, index))
    return found


def identifier(name: str) -> str:
    """C identifier of a task or a layer."""
    return re.sub(r"[^A-Za-z0-9_]", "_", name)


def _row_buffer(index: int) -> str:
    return f"weights of operation {index}"


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(str(size) for size in shape)


def _float_literal(value: float) -> str:
    """C literal of a float32, exact: nine digits tell any two of them apart."""
    digits = f"{value:.9g}"
    return f"{digits}f" if "." in digits or "e" in digits else f"{digits}.0f"
