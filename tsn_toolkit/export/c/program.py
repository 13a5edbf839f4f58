"""C99 source files of one or several tasks.

Tasks of one program share the kernels, the memory that they work in, and every const array whose bytes are equal. What a task shares with others in
the store is therefore in flash once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tsn_toolkit.errors import ExportError
from tsn_toolkit.export.c.arena import Arena
from tsn_toolkit.export.c.constants import Constants
from tsn_toolkit.export.c.layer_weights import LayerWeights, own_weights
from tsn_toolkit.export.c.operations import Convolution, IntegerProgram
from tsn_toolkit.export.c.task_text import TaskText, identifier
from tsn_toolkit.export.c.templates import fill, read
from tsn_toolkit.files import write_bytes
from tsn_toolkit.target import Toolchain

Weights = Mapping[str, LayerWeights]

THIS_COMPUTER = Toolchain()
"""gcc for the processor that it runs on."""
_ROUNDING_KERNELS = ("convolution", "average_pool", "add", "rescale")
_KERNELS = (*_ROUNDING_KERNELS, "max_pool", "copy", "lookup", "softmax")


@dataclass(frozen=True)
class CProgram:
    """The files of a program and what they will occupy on a device.

    Attributes:
        files: name -> text of the sources, the Makefile and the programs that run a task.
        constant_bytes: const array or record -> bytes; their sum is the flash of all tasks without machine code and alignment.
        arenas: task -> the addresses of its activations.
        ram_bytes: static memory, the largest arena; the caller's input and output and the stack are not in it.
        calls: kernel -> number of its calls in all tasks.
        weight_records: task -> layer -> name of its record in `weights.c`.
        softmaxes: task -> C function in `probabilities.c` that gives probabilities, "" where its outputs are no vector or are probabilities already.
    """

    files: dict[str, str]
    constant_bytes: dict[str, int]
    arenas: dict[str, Arena]
    ram_bytes: int
    calls: dict[str, int]
    weight_records: dict[str, dict[str, str]]
    softmaxes: dict[str, str]

    @property
    def flash_bytes(self) -> int:
        """Bytes of all constants."""
        return sum(self.constant_bytes.values())


def generate(tasks: Mapping[str, IntegerProgram], *, weights: Mapping[str, Weights] | None = None, toolchain: Toolchain = THIS_COMPUTER) -> CProgram:
    """Make the source files of `tasks`; the same tasks give the same text.

    Args:
        tasks: name -> its network (see `lower`). Names are letters, digits, `_` and `-`, which becomes `_`.
        weights: task -> layer -> where its weights come from (see `share_weights`); None: every task has its own.
        toolchain: what the Makefile compiles and runs with.

    Raises:
        ExportError: no task, a name that C cannot take, two names that C cannot tell apart, or a layer that is too large.
    """
    names = _identifiers(tasks)
    constants = Constants(toolchain.pointer_bytes)
    texts = {
        task: TaskText(names[task], index, program, weights[task] if weights else weights_of(program), constants)
        for index, (task, program) in enumerate(tasks.items())
    }
    ram = max(text.arena.size_bytes for text in texts.values())
    used = {kernel for text in texts.values() for kernel in text.kernels}
    files = {
        "model.h": _header(texts, ram),
        "model.c": _model(texts, ram, used),
        "probabilities.c": _probabilities(texts),
        "weights.h": fill("weights.h", declarations=constants.declarations()),
        "weights.c": fill("weights.c", definitions=constants.definitions()),
        **_build_files(toolchain),
    }
    return CProgram(
        files,
        constants.size_bytes,
        {task: text.arena for task, text in texts.items()},
        ram,
        {kernel: sum(text.kernels.count(kernel) for text in texts.values()) for kernel in _KERNELS if kernel in used},
        {task: text.weight_records for task, text in texts.items()},
        {task: f"tsn_softmax_{text.name}" if text.has_softmax else "" for task, text in texts.items()},
    )


def weights_of(program: IntegerProgram) -> dict[str, LayerWeights]:
    """Layer -> weights that no other task reads."""
    layers = [operation for operation in program.operations if isinstance(operation, Convolution)]
    return {operation.layer: own_weights(operation.codes, where=operation.layer) for operation in layers}


def write_program(program: CProgram, folder: Path) -> None:
    """Write the files of a program into an existing folder."""
    for name, text in program.files.items():
        write_bytes(folder / name, text.encode())


def _header(texts: Mapping[str, TaskText], ram: int) -> str:
    programs = [text.program for text in texts.values()]
    return fill(
        "model.h",
        arena=ram,
        count=len(texts),
        largest_input=max(program.source.size for program in programs),
        largest_output=max(program.target.size for program in programs),
        tasks="\n".join(text.header() for text in texts.values()),
    )


def _model(texts: Mapping[str, TaskText], ram: int, used: set[str]) -> str:
    return fill(
        "model.c",
        arena=f"static int8_t arena[{ram}];\n\n" if ram else "",
        kernels=_kernels(used),
        tasks="\n".join(text.function() for text in texts.values()),
        sizes="\n".join(f"    {{{text.program.source.size}, {text.program.target.size}}}," for text in texts.values()),
        cases="\n".join(f"    case {text.index}:\n        return tsn_run_{text.name}(input, output);" for text in texts.values()),
    )


def _probabilities(texts: Mapping[str, TaskText]) -> str:
    """In a file of its own, so that a program that calls none of it has none of it in flash."""
    kernels = ["argmax"] + (["softmax"] if any(text.has_softmax for text in texts.values()) else [])
    return fill(
        "probabilities.c",
        kernels="\n".join(read(f"kernels/{name}.c") for name in kernels),
        tasks="\n".join(text.answers() for text in texts.values()),
    )


def _kernels(used: set[str]) -> str:
    """C functions of the kernels that are used; a compiler would warn of others."""
    names = [name for name in _KERNELS if name in used]
    shared = ["stored_byte"] if used & set(_ROUNDING_KERNELS) else []
    return "\n".join(read(f"kernels/{name}.c") for name in ("argmax", *shared, *names))


def _build_files(toolchain: Toolchain) -> dict[str, str]:
    """The Makefile and the programs that it builds."""
    memory = toolchain.memory
    makefile = fill(
        "Makefile",
        compiler=toolchain.compiler,
        flags=" ".join(toolchain.flags),
        emulator=" ".join(toolchain.emulator),
        firmware=read("firmware_linux.mk" if memory is None else "firmware_board.mk"),
    )
    files = {"Makefile": makefile, "run.c": read("run.c")}
    if memory is not None:
        origins = {"flash_origin": f"{memory.flash_origin:#010x}", "ram_origin": f"{memory.ram_origin:#010x}"}
        files |= {"run_board.c": read("run_board.c"), "board.ld": fill("board.ld", **origins, flash_kib=memory.flash_kib, ram_kib=memory.ram_kib)}
    return files


def _identifiers(tasks: Mapping[str, IntegerProgram]) -> dict[str, str]:
    if not tasks:
        raise ExportError("A C program needs at least one task, got none.")
    for task in tasks:
        if not re.fullmatch(r"[A-Za-z0-9_-]+", task):
            raise ExportError(f"Task name {task!r} cannot become a C function. Use letters, digits, `_` and `-`.")
    names = {task: identifier(task) for task in tasks}
    upper = [name.upper() for name in names.values()]
    doubled = sorted(task for task, name in names.items() if upper.count(name.upper()) > 1)
    if doubled:
        raise ExportError(f"Task names {doubled} become the same C name. Rename all but one.")
    return names
