"""One part of a store: a safetensors file with one byte vector, in which all blobs stand one after the other, and one metadata key of canonical JSON.

A part is damaged data until proved otherwise: everything that reads one raises `PartError`, which the store turns into an error with the part's name.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from tsn_toolkit.errors import StoreError

METADATA_KEY = "tsn"
TENSOR = "blobs"
SCHEMA_VERSION = 1
FREE_SCHEMA_VERSION = 2
"""Of parts that hold free parameters, or a record of such; all others are written as before."""

BLOBS = ("layers", "masks", "values", "codebooks", "scales", "norms", "biases", "head", "ranges")
"""Every blob a part has, in the order of the file."""

MEMORY = "memory"
"""A blob behind these, only in the parts of revisions whose method keeps something for the next task."""

FREE = "free_parameters"
"""A last blob, only in parts of schema 2."""

MAX_HEADER_BYTES = 1 << 24
"""Longest header: JSON takes many times its own bytes in memory."""

_LENGTH_BYTES = 8
_ALIGNMENT_BYTES = 8
_AHEAD_BYTES = 1 << 13
_WINDOW_BYTES = 1 << 16

Source = Callable[[int, int], bytes]
"""Reads a file: (offset, size in bytes) -> bytes, fewer where the file ends."""


class PartError(ValueError):
    """The bytes of a part break the format."""


def canonical_json(value: object) -> str:
    """The one JSON text of a value: sorted keys, no spaces, ASCII, no NaN.

    Raises:
        TypeError: the value holds something JSON has no form for.
        ValueError: the value holds a number that is not finite, or contains itself.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def write_part(metadata: Mapping[str, Any], blobs: Mapping[str, bytes]) -> bytes:
    """The file's bytes: the same for the same arguments. Of schema 2 where the blob of free parameters is named, empty or not.

    Raises:
        StoreError: the metadata are too long.
    """
    free = FREE in blobs
    optional = (MEMORY, FREE) if free else (MEMORY,) if blobs.get(MEMORY) else ()
    names = (*BLOBS, *optional)
    fields = [blobs.get(name, b"") for name in names]
    text = canonical_json({**metadata, "schema": FREE_SCHEMA_VERSION if free else SCHEMA_VERSION, "blobs": [len(field) for field in fields]})
    header = _header(text, sum(map(len, fields)))
    if len(header) > MAX_HEADER_BYTES:
        raise StoreError(f"part `{metadata.get('name')}`: its metadata take {len(header)} bytes of {MAX_HEADER_BYTES}. Shorten its recipe or plan.")
    return b"".join([len(header).to_bytes(_LENGTH_BYTES, "little"), header, *fields])


def read_part(data: bytes) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Reads a part's bytes: its metadata without what `write_part` adds, and its blobs.

    Raises:
        PartError: not a safetensors file, or not one of ours.
    """
    part = open_part(bytes_source(data), len(data))
    return part.metadata, {name: part.blob(name).rest() for name in part.sizes_bytes}


@dataclass(frozen=True)
class Part:
    """An opened part, whose blobs are read as they are needed.

    Attributes:
        metadata: without what `write_part` adds.
        header_bytes: size of the header, its length field included.
        sizes_bytes: of each blob.
    """

    metadata: dict[str, Any]
    header_bytes: int
    sizes_bytes: dict[str, int]
    _source: Source

    def blob(self, name: str) -> BlobReader:
        """A reader at the beginning of a blob; an empty one where the part has no memory or no free parameters."""
        starts = dict(zip((*BLOBS, MEMORY, FREE), accumulate(self.sizes_bytes.values(), initial=self.header_bytes), strict=False))
        return BlobReader(name, self._source, starts.get(name, 0), self.sizes_bytes.get(name, 0))


def open_part(source: Source, size_bytes: int) -> Part:
    """Opens a part of `size_bytes` bytes.

    Raises:
        PartError: not a safetensors file, or not one of ours.
    """
    length = int.from_bytes(source(0, _LENGTH_BYTES), "little")
    if not 0 < length <= min(size_bytes - _LENGTH_BYTES, MAX_HEADER_BYTES):
        raise PartError(f"its header of {length} bytes does not fit into its {size_bytes} bytes, or is longer than {MAX_HEADER_BYTES}")
    header = source(_LENGTH_BYTES, length)
    try:
        text = json.loads(header)["__metadata__"][METADATA_KEY]
        metadata = json.loads(text)
        if canonical_json(metadata) != text:  # also refuses NaN and infinities, which could not be written again
            raise PartError("its metadata are not canonical JSON")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise PartError(f"not a readable part ({type(error).__name__}: {error})") from error
    schema = metadata.pop("schema", None) if isinstance(metadata, dict) else None
    if type(schema) is not int or schema not in (SCHEMA_VERSION, FREE_SCHEMA_VERSION):
        raise PartError(f"its schema version is neither {SCHEMA_VERSION} nor {FREE_SCHEMA_VERSION}")
    sizes = metadata.pop("blobs", None)
    names: tuple[str, ...] = (*BLOBS, MEMORY) if isinstance(sizes, list) and len(sizes) > len(BLOBS) else BLOBS
    if schema == FREE_SCHEMA_VERSION:
        names = (*BLOBS, MEMORY, FREE)
    if not isinstance(sizes, list) or len(sizes) != len(names) or not all(type(size) is int and size >= 0 for size in sizes):
        raise PartError(f"its metadata do not give the sizes of {len(names)} blobs")
    if header != _header(text, sum(sizes)) or _LENGTH_BYTES + length + sum(sizes) != size_bytes:
        raise PartError("its header or its size is not that of a part with these blobs")
    return Part(metadata, _LENGTH_BYTES + length, dict(zip(names, sizes, strict=True)), source)


def bytes_source(data: bytes) -> Source:
    """Reads from memory."""
    return lambda offset, size_bytes: data[offset : offset + size_bytes]


def file_source(path: Path) -> Source:
    """Reads from a file, which is open only while it is read."""

    def read(offset: int, size_bytes: int) -> bytes:
        with path.open("rb", buffering=0) as handle:
            handle.seek(offset)
            return handle.read(size_bytes)

    return read


def _header(text: str, size_bytes: int) -> bytes:
    """The header of a safetensors file with one byte vector and one metadata key, as that library writes it."""
    tensor = f'{{"dtype":"U8","shape":[{size_bytes}],"data_offsets":[0,{size_bytes}]}}'
    header = f'{{"__metadata__":{{"{METADATA_KEY}":{json.dumps(text)}}},"{TENSOR}":{tensor}}}'.encode()
    return header + b" " * (-len(header) % _ALIGNMENT_BYTES)


class BlobReader:
    """Takes a blob's bytes in order and refuses to give more than there are."""

    def __init__(self, name: str, source: Source, start: int, size_bytes: int) -> None:
        """Reads `size_bytes` bytes of `source` from `start`."""
        self._name, self._source = name, source
        self._offset, self._end = start, start + size_bytes
        self._ahead, self._ahead_start = b"", start

    @classmethod
    def of(cls, name: str, data: bytes) -> BlobReader:
        """A reader of bytes in memory."""
        return cls(name, bytes_source(data), 0, len(data))

    def take(self, size_bytes: int) -> bytes:
        """The next `size_bytes` bytes.

        Raises:
            PartError: fewer are left.
        """
        left = self._end - self._offset
        if size_bytes > left:
            raise PartError(f"blob `{self._name}` ends early: {size_bytes} bytes wanted, {left} left")
        first = self._offset - self._ahead_start
        if first + size_bytes > len(self._ahead):
            self._ahead = self._source(self._offset, min(max(size_bytes, _AHEAD_BYTES), left))
            self._ahead_start, first = self._offset, 0
        taken = self._ahead[first : first + size_bytes]
        if len(taken) < size_bytes:
            raise PartError(f"blob `{self._name}` ends early: the file is shorter than its header says")
        self._offset += size_bytes
        return taken

    def window(self, size_bytes: int) -> tuple[bytes, int]:
        """Bytes that were read ahead, and the place of the next one among them; nothing is taken.

        Args:
            size_bytes: how many there must be from that place on; fewer only where fewer are left.

        Raises:
            PartError: the file is shorter than its header says.
        """
        wanted, at = min(size_bytes, self._end - self._offset), self._offset - self._ahead_start
        if at + wanted > len(self._ahead):
            self._ahead_start, at = self._offset, 0
            self._ahead = self._source(self._offset, min(max(wanted + wanted // 4, _WINDOW_BYTES), self._end - self._offset))
            if len(self._ahead) < wanted:
                raise PartError(f"blob `{self._name}` ends early: the file is shorter than its header says")
        return self._ahead, at

    def take_up_to(self, place: int) -> None:
        """Takes the bytes of the latest window that stand before a place in it."""
        self._offset = self._ahead_start + place

    def rest(self) -> bytes:
        """All bytes that are left."""
        return self.take(self._end - self._offset)

    def finish(self) -> None:
        """Checks that every byte was taken.

        Raises:
            PartError: some are left.
        """
        if self._offset != self._end:
            raise PartError(f"blob `{self._name}` has {self._end - self._offset} bytes too many")
