"""A program compiled with a target's own compiler, measured, and run once in its emulator."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tsn_toolkit.errors import ExportError, TargetError
from tsn_toolkit.export.c.elf import linked_bytes
from tsn_toolkit.export.c.footprint import Footprint
from tsn_toolkit.export.c.operations import IntegerProgram
from tsn_toolkit.export.c.program import CProgram, write_program
from tsn_toolkit.export.limited import run_limited
from tsn_toolkit.target import Target, Toolchain

TIME_LIMIT_S = 600
"""For one command: a build, or one example in the emulator. Both take seconds."""

_HOST_TOOLS = ("gcc", "make")


def require_tools(target: Target) -> Toolchain:
    """The target's toolchain, with every program that it names found.

    Raises:
        TargetError: the target has none, or a program is missing; the message holds the line that installs it.
    """
    toolchain = target.toolchain
    if toolchain is None:
        raise TargetError(f"Target `{target.name}` is compiled, but has no `toolchain`. Give its compiler and flags in the target's file.")
    missing = [tool for tool in (*_HOST_TOOLS, toolchain.compiler, *toolchain.emulator[:1]) if shutil.which(tool) is None]
    if missing:
        raise TargetError(f"Target `{target.name}` needs {', '.join(missing)}, which is not installed. Install it: {target.install}")
    return toolchain


def compiler_version(compiler: str, target: Target) -> str:
    """Version of the compiler.

    Raises:
        TargetError: it is older than the target asks for.
    """
    version = subprocess.run([compiler, "-dumpfullversion"], capture_output=True, text=True, check=True).stdout.strip()
    numbers, wanted = (tuple(int(part) for part in text.split(".")) for text in (version, target.minimum_version))
    if numbers < wanted:
        raise TargetError(f"Target `{target.name}` needs {compiler} >= {target.minimum_version}, found {version}. Install it: {target.install}")
    return version


def measure(program: CProgram, tasks: Mapping[str, IntegerProgram], toolchain: Toolchain) -> Footprint:
    """Bytes of the linked program, and of the stack where the program runs without an operating system.

    Under Linux, code and constants of the tasks alone are counted, since the C library is the system's.

    Raises:
        ExportError: the compiler or the emulator fails, its last words are in the message; or it does not end.
    """
    buffers = max(task.source.size for task in tasks.values()) + max(task.target.size for task in tasks.values())
    with tempfile.TemporaryDirectory(prefix="tsn-") as name:
        folder = Path(name)
        write_program(program, folder)
        if toolchain.memory is None:
            _make(folder, "libtsn.a")
            _run([toolchain.compiler, *toolchain.flags, "-nostdlib", "-r", "model.o", "weights.o", "-o", "tasks.elf"], folder)
            linked = linked_bytes(folder / "tasks.elf")
            return Footprint(linked.flash_bytes, linked.ram_bytes + buffers + toolchain.stack_bytes)
        _make(folder, "firmware.elf")
        linked = linked_bytes(folder / "firmware.elf")
        stack = max(_stack_bytes(folder, index, task) for index, task in enumerate(tasks.values()))
        return Footprint(linked.flash_bytes, linked.ram_bytes + stack)


def _stack_bytes(folder: Path, index: int, task: IntegerProgram) -> int:
    """Stack that one task uses, by the emulated program's own account: it fills the stack before and looks what was overwritten after."""
    (folder / "input.bin").write_bytes(bytes([index]) + bytes(task.source.size))
    _make(folder, "emulate")
    return int.from_bytes((folder / "stack.bin").read_bytes(), "little")


def _make(folder: Path, goal: str) -> None:
    _run(["make", "-s", goal], folder)


def _run(command: list[str], folder: Path) -> None:
    try:
        done = run_limited(command, folder, seconds=TIME_LIMIT_S)
    except TimeoutError as error:
        stopped = f"`{' '.join(command)}` does not end within {TIME_LIMIT_S:,} s and was stopped"
        raise ExportError(f"{stopped}. Try the compiler and the emulator by hand, or export for another target.") from error
    if done.returncode != 0:
        last = " ".join((done.stderr or done.stdout).strip().splitlines()[-3:])
        raise ExportError(f"`{' '.join(command)}` fails with exit code {done.returncode}: {last or 'no output'}")
