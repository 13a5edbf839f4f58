"""One part of a store: a safetensors file of a few byte blobs and one metadata key with canonical JSON.

A part is damaged data until proved otherwise: everything that reads one raises `PartError`, which the store turns into an error with the part's name.
"""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

METADATA_KEY = "tsn"
SCHEMA_VERSION = 1

BLOBS = ("masks", "values", "codebooks", "scales", "norms", "biases", "head", "ranges")
"""Every blob a part may hold; an empty one is left out of the file."""


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
    """The file's bytes: the same for the same arguments."""
    tensors = {name: np.frombuffer(blobs[name], np.uint8) for name in BLOBS if blobs.get(name)}
    return bytes(save(tensors, {METADATA_KEY: canonical_json({"schema": SCHEMA_VERSION, **metadata})}))


def read_part(data: bytes) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Reads a part's bytes: its metadata and its blobs (a missing one is empty).

    Raises:
        PartError: not a safetensors file, or not one of ours.
    """
    try:
        tensors = load(data)
        text = _header(data)["__metadata__"][METADATA_KEY]
        metadata = json.loads(text)
        if canonical_json(metadata) != text:  # also refuses NaN and infinities, which could not be written again
            raise PartError("its metadata are not canonical JSON")
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise PartError(f"not a readable part ({type(error).__name__}: {error})") from error
    if not isinstance(metadata, dict) or metadata.get("schema") != SCHEMA_VERSION:
        raise PartError(f"its schema version is not {SCHEMA_VERSION}")
    for name, tensor in tensors.items():
        if name not in BLOBS or tensor.dtype != np.uint8 or tensor.ndim != 1:
            raise PartError(f"`{name}` is not one of the byte blobs of a part")
    return metadata, {name: tensors[name].tobytes() if name in tensors else b"" for name in BLOBS}


def blob_sizes_bytes(data: bytes) -> tuple[int, dict[str, int]]:
    """Bytes of the header (its length field included) and of each blob in the file; together the file's size."""
    _, blobs = read_part(data)
    header = 8 + int.from_bytes(data[:8], "little")
    return header, {name: len(blob) for name, blob in blobs.items()}


def _header(data: bytes) -> dict[str, Any]:
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    if not isinstance(header, dict):
        raise PartError("its header is not a JSON object")
    return header


class BlobReader:
    """Takes a blob's bytes in order and refuses to give more than there are."""

    def __init__(self, name: str, data: bytes) -> None:
        self._name = name
        self._data = data
        self._offset = 0

    def take(self, size_bytes: int) -> bytes:
        """The next `size_bytes` bytes.

        Raises:
            PartError: fewer are left.
        """
        left = len(self._data) - self._offset
        if size_bytes > left:
            raise PartError(f"blob `{self._name}` ends early: {size_bytes} bytes wanted, {left} left")
        self._offset += size_bytes
        return self._data[self._offset - size_bytes : self._offset]

    def rest(self) -> bytes:
        """All bytes that are left."""
        return self.take(len(self._data) - self._offset)

    def finish(self) -> None:
        """Checks that every byte was taken.

        Raises:
            PartError: some are left.
        """
        if self._offset != len(self._data):
            raise PartError(f"blob `{self._name}` has {len(self._data) - self._offset} bytes too many")
