"""C99 source files of one or several tasks.

Tasks of one program share the kernels, the memory that they work in, and every const array whose bytes are equal. What a task shares with others in
the store is therefore in flash once.
"""

from __future__ import annotations

import re
import string
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from tsn_toolkit.errors import ExportError
from tsn_toolkit.export.artefact import write_atomically
from tsn_toolkit.export.c.arena import Arena, Lifetime, plan_arena
from tsn_toolkit.export.c.constants import Constants, PackedWeights, pack_weights
from tsn_toolkit.export.c.operations import Add, Concat, Convolution, IntegerProgram, Operation, Pool, Rescale, Tensor, Window

_ROUNDING_KERNELS = ("convolution", "average_pool", "add", "rescale")
_KERNELS = (*_ROUNDING_KERNELS, "max_pool", "copy")


@dataclass(frozen=True)
class CProgram:
    """The files of a program and what they will occupy on a device.

    Attributes:
        files: name -> text of `model.h`, `model.c`, `weights.h`, `weights.c` and `Makefile`.
        constant_bytes: const array -> bytes; their sum is the flash of all tasks without machine code and alignment.
        arenas: task -> the addresses of its activations.
        ram_bytes: static memory, the largest arena; the caller's input and output and the stack are not in it.
    """

    files: dict[str, str]
    constant_bytes: dict[str, int]
    arenas: dict[str, Arena]
    ram_bytes: int

    @property
    def flash_bytes(self) -> int:
        """Bytes of all const arrays."""
        return sum(self.constant_bytes.values())


class _Template(string.Template):
    delimiter = "@"  # C and make use $


def generate(tasks: Mapping[str, IntegerProgram]) -> CProgram:
    """Make the source files of `tasks`; the same tasks give the same text.

    Args:
        tasks: name -> its network (see `lower`). Names are letters, digits, `_` and `-`, which becomes `_`.

    Raises:
        ExportError: no task, a name that C cannot take, two names that C cannot tell apart, or a layer that is too large.
    """
    names = _identifiers(tasks)
    constants = Constants()
    writers = {task: _TaskWriter(names[task], program, constants) for task, program in tasks.items()}
    ram = max(writer.arena.size_bytes for writer in writers.values())
    arena = f"static int8_t arena[{ram}];\n\n" if ram else ""
    kernels = _kernels({kernel for writer in writers.values() for kernel in writer.kernels})
    files = {
        "model.h": _fill("model.h", arena=ram, tasks="\n".join(writer.header() for writer in writers.values())),
        "model.c": _fill("model.c", arena=arena, kernels=kernels, tasks="\n".join(writer.function() for writer in writers.values())),
        "weights.h": _fill("weights.h", declarations=constants.declarations()),
        "weights.c": _fill("weights.c", definitions=constants.definitions()),
        "Makefile": _read("Makefile"),
    }
    return CProgram(files, constants.size_bytes, {task: writer.arena for task, writer in writers.items()}, ram)


def write_program(tasks: Mapping[str, IntegerProgram], folder: Path) -> CProgram:
    """Write the files of `generate(tasks)` into an existing folder.

    Raises:
        ExportError: see `generate`.
    """
    program = generate(tasks)
    for name, text in program.files.items():
        write_atomically(folder / name, text.encode())
    return program


class _TaskWriter:
    """Writes the function of one task and adds its arrays to the constants of all tasks."""

    def __init__(self, name: str, program: IntegerProgram, constants: Constants) -> None:
        self.name, self.program, self.constants = name, program, constants
        self.weights = {
            index: pack_weights(operation.codes, where=operation.layer)
            for index, operation in enumerate(program.operations)
            if isinstance(operation, Convolution)
        }
        self.arena = plan_arena(_lifetimes(program, self.weights))
        self.kernels: set[str] = set()
        self.calls = [call for index, operation in enumerate(program.operations) for call in self._calls(index, operation)]

    def function(self) -> str:
        """The C function."""
        calls = "\n".join(
            textwrap.fill(f"{call};", 120, initial_indent="    ", subsequent_indent="        ", break_on_hyphens=False, break_long_words=False)
            for call in self.calls
        )
        return _fill("task.c", name=self.name, calls=calls, output_size=self.program.target.size)

    def header(self) -> str:
        """Its declaration and sizes."""
        source, target = self.program.source, self.program.target
        return _fill(
            "task.h",
            name=self.name,
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
        return self._copies(operation)

    def _convolution(self, index: int, operation: Convolution) -> str:
        packed, name = self.weights[index], f"tsn_{self.name}_{_identifier(operation.layer)}"
        codebook = "0" if packed.codebook is None else self.constants.add(f"{name}_codebook", "int8_t", packed.codebook)
        return self._call(
            "convolution",
            self._geometry(operation.layer, operation.source, operation.target, operation.window, operation.groups),
            self._address(operation.source),
            self.constants.add(f"{name}_codes", "int8_t" if packed.codebook is None else "uint8_t", packed.data),
            codebook,
            packed.bits,
            self.constants.add(f"{name}_bias", "int32_t", operation.bias),
            self.constants.add(f"{name}_multipliers", "int32_t", operation.factors.multipliers),
            self.constants.add(f"{name}_shifts", "uint8_t", operation.factors.shifts),
            "0" if packed.codebook is None else f"arena + {self.arena.offsets[_row_buffer(index)]}",
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
        return "&" + self.constants.add(
            f"tsn_{self.name}_{_identifier(name)}_geometry", "tsn_geometry", (*values, groups, source.offset, target.offset)
        )

    def _call(self, kernel: str, *arguments: object) -> str:
        self.kernels.add(kernel)
        return f"{kernel}({', '.join(str(argument) for argument in arguments)})"

    def _address(self, tensor: Tensor) -> str:
        if tensor.buffer == self.program.source.buffer:
            return "input"
        return "output" if tensor.buffer == self.program.target.buffer else f"arena + {self.arena.offsets[tensor.buffer]}"


def _lifetimes(program: IntegerProgram, weights: Mapping[int, PackedWeights]) -> list[Lifetime]:
    """Of all activations but the caller's input and output, and of the rows that packed weights are unpacked to."""
    last = {source.buffer: index for index, operation in enumerate(program.operations) for source in operation.sources}
    own = {program.source.buffer, program.target.buffer}
    lifetimes = []
    for index, operation in enumerate(program.operations):
        target = operation.target
        if target.buffer not in own:
            lifetimes.append(Lifetime(target.buffer, target.size, index, last.get(target.buffer, index)))
        if index in weights and weights[index].codebook is not None:
            assert isinstance(operation, Convolution)
            lifetimes.append(Lifetime(_row_buffer(index), operation.codes[0].size, index, index))
    return lifetimes


def _row_buffer(index: int) -> str:
    return f"weights of operation {index}"


def _identifiers(tasks: Mapping[str, IntegerProgram]) -> dict[str, str]:
    if not tasks:
        raise ExportError("A C program needs at least one task, got none.")
    for task in tasks:
        if not re.fullmatch(r"[A-Za-z0-9_-]+", task):
            raise ExportError(f"Task name {task!r} cannot become a C function. Use letters, digits, `_` and `-`.")
    names = {task: _identifier(task) for task in tasks}
    upper = [name.upper() for name in names.values()]
    doubled = sorted(task for task, name in names.items() if upper.count(name.upper()) > 1)
    if doubled:
        raise ExportError(f"Task names {doubled} become the same C name. Rename all but one.")
    return names


def _identifier(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_]", "_", name)


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(str(size) for size in shape)


def _float_literal(value: float) -> str:
    """C literal of a float32, exact: nine digits tell any two of them apart."""
    digits = f"{value:.9g}"
    return f"{digits}f" if "." in digits or "e" in digits else f"{digits}.0f"


def _kernels(used: set[str]) -> str:
    """C functions of the kernels that are used; a compiler would warn of others."""
    names = [name for name in _KERNELS if name in used]
    shared = ["stored_byte"] if used & set(_ROUNDING_KERNELS) else []
    return "\n".join(_read(f"kernels/{name}.c") for name in ("argmax", *shared, *names))


def _read(name: str) -> str:
    return resources.files(__package__).joinpath("templates", name).read_text(encoding="utf-8")


def _fill(template: str, **values: object) -> str:
    return _Template(_read(template)).substitute(values)
