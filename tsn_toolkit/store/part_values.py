"""A part without its codes, which lie elsewhere: what is left of the file, and the file again when they come back.

Of the blob `values` only the heads are left, the form byte and the table of each run of codes. So the file comes back byte for byte whatever form a
writer chose. A run of form LARGE has no table; its bytes depend on the version of Zstandard. It is kept whole where this version would code it to
other bytes, and leaves a length of 0 where not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tsn_toolkit.store.layer_blobs import code_bits
from tsn_toolkit.store.part import BlobReader, PartError, read_part, write_part
from tsn_toolkit.store.values import LARGE, decode_codes, encode_with_head, pack_codes, skip_codes, take_head
from tsn_toolkit.store.varint import take_varint, varint

_VALUES = "values"
_LARGE = bytes([LARGE])
_AS_CODED_NOW = varint(0)


@dataclass(frozen=True)
class CodeRun:
    """Codes that stand together in the blob: how many, bits of each, form byte and table (none where there are no codes)."""

    count: int
    bits: int
    head: bytes


@dataclass(frozen=True)
class BarePart:
    """A part without its codes.

    Attributes:
        metadata: of the part.
        blobs: the other blobs.
        runs: what the blob of values holds, in its order.
    """

    metadata: dict[str, Any]
    blobs: dict[str, bytes]
    runs: tuple[CodeRun, ...]

    def file(self, codes: Sequence[NDArray[np.uint8]]) -> bytes:
        """The file again, with the codes that it had, one array for each of `runs`.

        Raises:
            PartError, NumericsError: these are not the codes that it had.
        """
        return self._with_values(b"".join(_recode(run, array) for run, array in zip(self.runs, codes, strict=True) if run.count))

    def with_codes(self, codes: Sequence[NDArray[np.uint8]]) -> bytes:
        """A part that holds any codes, one array for each of `runs`, packed."""
        return self._with_values(b"".join(pack_codes(array, run.bits) for run, array in zip(self.runs, codes, strict=True)))

    def _with_values(self, values: bytes) -> bytes:
        return write_part(self.metadata, {**self.blobs, _VALUES: values})


def cut_codes(data: bytes, counts: Sequence[int]) -> bytes:
    """What is left of a part without its codes.

    Args:
        data: the part's file.
        counts: number of codes of each run, in the order of the blob.

    Raises:
        PartError: not a readable part, or not one with these numbers of codes.
    """
    metadata, blobs = read_part(data)
    values, heads = BlobReader.of(_VALUES, blobs[_VALUES]), []
    for (_, bits), count in zip(code_bits(blobs["layers"]), counts, strict=True):
        if count:
            heads.append(_cut_run(values, count, bits))
    values.finish()
    return write_part(metadata, {**blobs, _VALUES: b"".join(heads)})


def read_bare_part(rest: bytes, counts: Sequence[int]) -> BarePart:
    """Reads what `cut_codes` left.

    Raises:
        PartError: not a readable part without codes, or not one with these numbers of codes.
    """
    metadata, blobs = read_part(rest)
    runs = code_bits(blobs["layers"])
    if len(runs) != len(counts):
        raise PartError(f"it has {len(runs)} runs of codes, the header gives {len(counts)} numbers")
    values = BlobReader.of(_VALUES, blobs[_VALUES])
    found = tuple(CodeRun(count, bits, _take_kept(values, bits) if count else b"") for (_, bits), count in zip(runs, counts, strict=True))
    values.finish()
    return BarePart(metadata, blobs, found)


def _cut_run(values: BlobReader, count: int, bits: int) -> bytes:
    """What is kept of a run; the reader stands behind the run afterwards."""
    head = take_head(values, bits)
    if head != _LARGE:
        skip_codes(values, head, count, bits)
        return head
    payload = values.take(take_varint(values))
    whole = head + varint(len(payload)) + payload
    codes = decode_codes(BlobReader.of(_VALUES, whole), count, bits)
    return _LARGE + _AS_CODED_NOW if encode_with_head(head, codes, bits) == whole else whole


def _take_kept(values: BlobReader, bits: int) -> bytes:
    head = take_head(values, bits)
    if head != _LARGE:
        return head
    size_bytes = take_varint(values)
    return head + varint(size_bytes) + values.take(size_bytes)


def _recode(run: CodeRun, codes: NDArray[np.uint8]) -> bytes:
    if run.head[:1] != _LARGE:
        return encode_with_head(run.head, codes, run.bits)
    if run.head == _LARGE + _AS_CODED_NOW:
        return encode_with_head(_LARGE, codes, run.bits)
    if not np.array_equal(decode_codes(BlobReader.of(_VALUES, run.head), run.count, run.bits), codes):
        raise PartError("its codes in the words are not those of the run that is kept beside them")
    return run.head
