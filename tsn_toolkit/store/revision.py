"""A revision in a part: its description in the metadata, and the method's memory as a blob of its own.

    "revision": {"rows": [[task, [logit, ...]], ...], "task_known": bool, "memory": [[name, dtype, shape], ...]}

The blob holds the arrays of `memory` one after the other, little-endian, in C order.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tsn_toolkit.contracts import Revision, TaskResult
from tsn_toolkit.errors import StoreError
from tsn_toolkit.store.fields import integer, listing, text
from tsn_toolkit.store.layout import MAX_LENGTH
from tsn_toolkit.store.part import BlobReader, PartError

DTYPES = {"uint8": "|u1", "int64": "<i8", "float16": "<f2", "float32": "<f4"}
"""Kinds of numbers that a memory may hold -> how they lie in the file."""

_MOST_DIMENSIONS = 8


def check_revision(where: str, result: TaskResult) -> None:
    """Checks the revision of a result.

    Raises:
        StoreError: it cannot be stored as it is.
    """
    revision = result.revision
    assert revision is not None
    if result.isolation != "none":
        raise StoreError(f"{where}: only a result of isolation `none` is a revision, got `{result.isolation}`. Leave `revision` out.")
    if list(revision.rows)[-1:] != [result.name]:
        raise StoreError(f"{where}: the last task that its revision answers for must be itself, got {list(revision.rows)}")
    for task, rows in revision.rows.items():
        if not rows or len(set(rows)) < len(rows) or not all(0 <= row < len(result.classes) for row in rows):
            raise StoreError(f"{where}: logits of task `{task}` must be distinct and lie in 0..{len(result.classes) - 1}, got {rows}")
    for name, array in revision.memory.items():
        if array.dtype.name not in DTYPES or array.ndim > _MOST_DIMENSIONS or max(array.shape, default=0) > MAX_LENGTH:
            raise StoreError(
                f"{where}: memory `{name}` must be one of {tuple(DTYPES)} with at most {_MOST_DIMENSIONS} dimensions of at most {MAX_LENGTH}, "
                f"got {array.dtype} {array.shape}. Keep less of it."
            )


def describe_revision(revision: Revision) -> dict[str, Any]:
    """What the metadata say of a revision."""
    return {
        "rows": [[task, [int(row) for row in rows]] for task, rows in revision.rows.items()],
        "task_known": revision.task_known,
        "memory": [[name, array.dtype.name, list(array.shape)] for name, array in revision.memory.items()],
    }


def encode_memory(revision: Revision) -> bytes:
    """The arrays of a revision's memory."""
    return b"".join(np.ascontiguousarray(array).astype(DTYPES[array.dtype.name], copy=False).tobytes() for array in revision.memory.values())


def check_description(metadata: Mapping[str, Any], classes: int, memory_bytes: int) -> None:
    """Checks what damaged metadata may say of a revision.

    Args:
        metadata: of a task's part.
        classes: logits of its head.
        memory_bytes: size of its memory blob.

    Raises:
        PartError, KeyError, TypeError: the description is damaged.
    """
    if "revision" not in metadata:
        if memory_bytes:
            raise PartError("it has a memory, but is no revision")
        return
    described = metadata["revision"]
    rows = _rows(described)
    if list(rows)[-1:] != [metadata["name"]] or metadata["isolation"] != "none":
        raise PartError("its revision does not answer for itself last, or its isolation is not `none`")
    for logits in rows.values():
        if not logits or len(set(logits)) < len(logits) or max(logits) >= classes:
            raise PartError(f"its revision names logits {logits[:8]} of {classes}")
    if type(described["task_known"]) is not bool:
        raise PartError(f"expected true or false in the metadata, got {described['task_known']!r:.80}")
    sizes = [math.prod(shape) * np.dtype(DTYPES[kind]).itemsize for _, kind, shape in _arrays(described)]
    if sum(sizes) != memory_bytes:
        raise PartError(f"its memory has {memory_bytes} bytes, its arrays take {sum(sizes)}")


def decode_revision(metadata: Mapping[str, Any], blob: BlobReader) -> Revision | None:
    """The revision of a part whose description is checked; None where it is none."""
    if "revision" not in metadata:
        return None
    described = metadata["revision"]
    memory: dict[str, NDArray[Any]] = {}
    for name, kind, shape in _arrays(described):
        dtype = np.dtype(DTYPES[kind])
        values = np.frombuffer(blob.take(math.prod(shape) * dtype.itemsize), dtype)
        memory[name] = values.reshape(shape).astype(kind)  # a copy that may be written, in the machine's own byte order
    return Revision(rows=_rows(described), task_known=described["task_known"], memory=memory)


def _rows(described: Any) -> dict[str, tuple[int, ...]]:
    pairs = [listing(pair, 2) for pair in listing(described["rows"])]
    rows = {text(task): tuple(integer(row, 0, MAX_LENGTH) for row in listing(logits)) for task, logits in pairs}
    if len(rows) != len(pairs):
        raise PartError("its revision names a task twice")
    return rows


def _arrays(described: Any) -> list[tuple[str, str, tuple[int, ...]]]:
    arrays = []
    for name, kind, shape in (listing(entry, 3) for entry in listing(described["memory"])):
        sizes = tuple(integer(size, 0, MAX_LENGTH) for size in listing(shape))
        if text(kind) not in DTYPES or len(sizes) > _MOST_DIMENSIONS:
            raise PartError(f"its memory `{name!r:.40}` is of kind {kind!r:.40} and shape {shape!r:.80}")
        arrays.append((text(name), text(kind), sizes))
    if len({name for name, _, _ in arrays}) != len(arrays):
        raise PartError("its memory names an array twice")
    return arrays
