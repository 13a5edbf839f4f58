"""Writing whole files or nothing, and counting the bytes of folders."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def write_text(path: Path, text: str) -> None:
    """Writes a file so that a reader sees the old or the new content, never a part."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a file so that a reader sees the old or the new content, never a part; a write that fails or is interrupted leaves nothing behind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    try:
        with errors_naming(path), temporary.open("wb") as handle:
            handle.write(data)
            handle.flush()
            os.fsync(handle.fileno())
        temporary.replace(path)
    except BaseException:  # a signal to end, too
        temporary.unlink(missing_ok=True)
        raise


def append_text(path: Path, text: str) -> None:
    """Writes at the end of a file."""
    with errors_naming(path), path.open("a", encoding="utf-8") as handle:
        handle.write(text)


@contextmanager
def errors_naming(path: Path) -> Iterator[None]:
    """Gives an error of the system the name of the file that is written, where it has none: a write to a full disk tells no name."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def write_json(path: Path, value: Any) -> None:
    """Writes JSON that a person can read; keys in the order given; NaN is refused."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def seen_from(path: Path) -> str:
    """Behind a path in a message: where a relative one was looked for; "" for an absolute one."""
    return "" if path.is_absolute() else f" (working folder: {Path.cwd()})"


def read_json(path: Path) -> Any:
    """Reads a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def folder_bytes(path: Path) -> int:
    """Sum of the sizes of the regular files below a folder, in bytes."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file() and not file.is_symlink())
