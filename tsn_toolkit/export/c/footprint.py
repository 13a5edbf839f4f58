"""Flash and RAM of a program: predicted from its operations before anything is written, and held against the target's limits.

Flash is the constants, each rounded up to the processor's alignment, and machine code: what a kernel takes on this processor, measured once and kept
in the target, for each kernel that is used, and so many bytes per call of it and per task. RAM is the arena, the caller's largest input and output,
and the stack. The program that is measured holds also what `run_board.c` needs to read inputs and write outputs; `base` counts it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tsn_toolkit.errors import ExportError
from tsn_toolkit.export.c.layer_weights import LayerWeights
from tsn_toolkit.export.c.operations import Convolution, IntegerProgram, Operation
from tsn_toolkit.export.c.program import CProgram, Weights
from tsn_toolkit.export.c.task_text import lifetimes
from tsn_toolkit.target import Target, Toolchain

_KIB = 1024
_FACTOR_BYTES = 9
"""Bias, multiplier and shift of one channel."""


@dataclass(frozen=True)
class Footprint:
    """Bytes of one program.

    Attributes:
        flash_bytes: constants and code.
        ram_bytes: arena, the caller's input and output, stack.
    """

    flash_bytes: int
    ram_bytes: int


def predict(program: CProgram, tasks: Mapping[str, IntegerProgram], toolchain: Toolchain) -> Footprint:
    """What the linked program will occupy."""
    pointer = toolchain.pointer_bytes
    constants = sum(-(-size // pointer) * pointer for size in program.constant_bytes.values())
    sizes = toolchain.code_bytes
    kernels = sum(sizes.get(kernel, 0) + sizes.get(f"call_{kernel}", 0) * count for kernel, count in program.calls.items())
    code = sizes.get("base", 0) + sizes.get("task", 0) * len(tasks) + kernels
    buffers = max(task.source.size for task in tasks.values()) + max(task.target.size for task in tasks.values())
    return Footprint(constants + code, program.ram_bytes + buffers + toolchain.stack_bytes)


def check_limits(found: Footprint, tasks: Mapping[str, IntegerProgram], weights: Mapping[str, Weights], target: Target) -> None:
    """Compare a footprint with the target's limits.

    Args:
        found: predicted or measured.
        tasks: what the program holds.
        weights: task -> layer -> its weights in flash.
        target: `flash_kib` and `ram_kib` hold; None is no limit.

    Raises:
        ExportError: a limit is exceeded; the message names the layer with the most bytes in flash, or the operation with the most memory in use.
    """
    if target.flash_kib is not None and found.flash_bytes > target.flash_kib * _KIB:
        task, layer, size = largest_layer(tasks, weights)
        raise ExportError(
            f"Target `{target.name}` has {target.flash_kib * _KIB:,} bytes of flash, the program takes {found.flash_bytes:,}. The largest layer is "
            f"`{layer}` of task `{task}`: {size:,} bytes. Lower its density, bit width or units, or choose a larger target."
        )
    if target.ram_kib is not None and found.ram_bytes > target.ram_kib * _KIB:
        raise ExportError(
            f"Target `{target.name}` has {target.ram_kib * _KIB:,} bytes of RAM, the program takes {found.ram_bytes:,}. "
            f"{describe_peak(tasks, weights)} Remove units there, or choose a larger target."
        )


def largest_layer(tasks: Mapping[str, IntegerProgram], weights: Mapping[str, Weights]) -> tuple[str, str, int]:
    """(task, layer, bytes in flash) of the layer with the most; what it shares with others is counted in full."""
    sizes = [
        (task, operation.layer, layer_bytes(weights[task][operation.layer], operation))
        for task, program in tasks.items()
        for operation in program.operations
        if isinstance(operation, Convolution)
    ]
    return max(sizes, key=lambda item: item[2])


def layer_bytes(weights: LayerWeights, operation: Convolution) -> int:
    """Bytes of a layer's weights and of what its channels are scaled with."""
    return sum(values.size_bytes for values in weights.values.lineage()) + weights.selection_bytes + _FACTOR_BYTES * len(operation.codes)


def describe_peak(tasks: Mapping[str, IntegerProgram], weights: Mapping[str, Weights]) -> str:
    """A sentence: at which operation of which task the most bytes of the arena are in use, and by what."""
    moments = []
    for task, program in tasks.items():
        placed = lifetimes(program, weights[task])
        for step, operation in enumerate(program.operations):
            alive = {item.name: item.size_bytes for item in placed if item.first <= step <= item.last}
            moments.append((sum(alive.values()), task, operation, alive))
    total, task, operation, alive = max(moments, key=lambda item: item[0])
    parts = ", ".join(f"`{name}` {size:,}" for name, size in sorted(alive.items(), key=lambda item: -item[1]))
    return f"The most is in use at `{operation_name(operation)}` of task `{task}`: {total:,} bytes ({parts})."


def operation_name(operation: Operation) -> str:
    """The layer's path, or what the operation writes."""
    return operation.layer if isinstance(operation, Convolution) else operation.target.buffer
