"""One operation of a trace before it becomes a record; what both tracers produce."""

from __future__ import annotations

import linecache
import re
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import torch
from torch import fx

FRAME = re.compile(r'File "([^"]+)", line (\d+)')
TORCH_FOLDER = str(Path(torch.__file__).parent)


@dataclass(frozen=True)
class Operation:
    """One operation in execution order.

    Attributes:
        name: unique name.
        op: the operation, for example `conv2d`.
        module: path of the nn.Module that ran it.
        inputs: names of the operations whose outputs it reads, in call order, one entry per use.
        parameters: state-dict names that it reads, in call order.
        input_shapes: shapes of all tensors it reads (parameters included), in call order.
        output_shapes: shape of each tensor output.
        dtype: of the first output.
        fresh: True when its output needs memory of its own (not a view, not in place).
        equation: of an einsum.
        source: `file:line` in the user's code, or "".
    """

    name: str
    op: str
    module: str
    inputs: tuple[str, ...]
    parameters: tuple[str, ...]
    input_shapes: tuple[tuple[int, ...], ...]
    output_shapes: tuple[tuple[int, ...], ...]
    dtype: torch.dtype
    fresh: bool
    equation: str = ""
    source: str = ""


def reads_of(node: fx.Node) -> list[fx.Node]:
    """Nodes that `node` reads, in call order, one entry per use (`Node.all_input_nodes` would merge x + x)."""
    found: list[fx.Node] = []

    def note(read: fx.Node) -> fx.Node:
        found.append(read)
        return read

    fx.node.map_arg((node.args, node.kwargs), note)
    return found


def source_of_text(stack: str) -> str:
    """`folder/file.py:line` of the innermost frame of a printed stack that lies outside torch; "" if there is none."""
    frames = [(file, line) for file, line in FRAME.findall(stack or "") if not file.startswith(TORCH_FOLDER)]
    return _short(*frames[-1]) if frames else ""


def source_of_traceback(traceback: TracebackType | None) -> tuple[str, str]:
    """(`folder/file.py:line`, the line's text) of the innermost frame outside torch and this package; ("", "") if there is none."""
    own = str(Path(__file__).parent)
    found = ("", "")
    while traceback is not None:
        file = traceback.tb_frame.f_code.co_filename
        if not file.startswith((TORCH_FOLDER, own, "<")):
            found = (_short(file, str(traceback.tb_lineno)), linecache.getline(file, traceback.tb_lineno).strip())
        traceback = traceback.tb_next
    return found


def _short(file: str, line: str) -> str:
    """The last folder and the file, so that no record depends on where the code is installed."""
    path = Path(file)
    return f"{path.parent.name}/{path.name}:{line}"
