"""Codes as they were read, looked up in a codebook without being unpacked first.

A byte that holds several codes is one index into a table of as many values, so that a value costs a fraction of a look-up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tsn_toolkit.numerics.bits import check_packed, unpack_bits
from tsn_toolkit.numerics.lookup import look_up

_CHUNK = 1 << 13
"""Indices looked up at a time: their 64-bit form stays in a processor's cache."""

_PAIRS_PAY_FROM = 1 << 19
"""Bytes from which a table for two bytes at a time is worth making."""


@dataclass(frozen=True)
class PackedCodes:
    """Codes of a fixed width, packed (`pack_bits`).

    Attributes:
        data: uint8, the packed bytes.
        width: bits per code, 1..8.
        count: number of codes.
    """

    data: NDArray[np.uint8]
    width: int
    count: int

    @classmethod
    def of(cls, data: bytes | memoryview, width: int, count: int) -> PackedCodes:
        """Codes in exactly the bytes that `pack_bits` gave.

        Raises:
            NumericsError: the bytes have another length, or an unused bit is set.
        """
        check_packed(data, width, count)
        return cls(np.frombuffer(data, np.uint8), width, count)

    @classmethod
    def plain(cls, codes: NDArray[np.uint8]) -> PackedCodes:
        """Codes that stand one to a byte: uint8 (n,)."""
        return cls(codes, 8, len(codes))

    def codes(self) -> NDArray[np.uint8]:
        """The codes, one to a byte: uint8 (n,)."""
        if self.width == 8:
            return self.data
        return unpack_bits(self.data.data, self.width, self.count).astype(np.uint8, copy=False)

    def bits(self, first: int, stop: int) -> NDArray[np.uint8]:
        """Codes of one bit, however packed, from `first` to `stop`: uint8 (stop - first,)."""
        if self.width == 8:
            return self.data[first:stop]
        skipped = first % 8
        return np.unpackbits(self.data[first // 8 :], count=skipped + stop - first, bitorder="little")[skipped:]

    def largest_possible(self) -> int:
        """The bits that are set in any of the codes: at least as large as the largest, and below 2**b exactly if all codes are."""
        joined = int(np.bitwise_or.reduce(self.data, initial=0))
        if 8 % self.width:
            return int(self.codes().max(initial=0))
        mask, found = (1 << self.width) - 1, 0
        for shift in range(0, 8, self.width):
            found |= joined >> shift & mask
        return found

    def values(self, codebook: NDArray[np.int8]) -> NDArray[np.int8]:
        """The codebook entry of every code: int8 (n,).

        Args:
            codebook: int8 (1..256,), longer than the largest code.
        """
        if 8 % self.width:
            return look_up(self.codes(), codebook)
        source = self.data
        table = _byte_table(codebook, self.width)
        if len(source) >= _PAIRS_PAY_FROM and table.itemsize <= 4:
            table, source = _pair_table(table), _even(source).view("<u2")
        found = np.empty(len(source), table.dtype)
        for start in range(0, len(source), _CHUNK):
            part = slice(start, start + _CHUNK)
            np.take(table, source[part], out=found[part], mode="clip")  # no index is beyond the table; `raise` would copy `out`
        return found.view(np.int8)[: self.count]


def _byte_table(codebook: NDArray[np.int8], width: int) -> NDArray[np.unsignedinteger[Any]]:
    """For every byte the values of the codes in it, as one integer in the order of memory: (256,)."""
    entries = np.zeros(1 << width, np.int8)
    entries[: len(codebook)] = codebook
    shifts = np.arange(0, 8, width, dtype=np.uint8)
    codes = np.arange(256, dtype=np.uint8)[:, None] >> shifts & np.uint8((1 << width) - 1)
    table: NDArray[np.unsignedinteger[Any]] = entries[codes].view(f"u{len(shifts)}").reshape(-1)
    return table


def _pair_table(table: NDArray[np.unsignedinteger[Any]]) -> NDArray[np.unsignedinteger[Any]]:
    """The same for every two bytes, of which the first is the low one: (65536,)."""
    pairs = np.empty((256, 256, 2), table.dtype)
    pairs[..., 0], pairs[..., 1] = table[None, :], table[:, None]
    joined: NDArray[np.unsignedinteger[Any]] = pairs.view(f"u{2 * table.itemsize}").reshape(-1)
    return joined


def _even(source: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return source if len(source) % 2 == 0 else np.append(source, np.uint8(0))
