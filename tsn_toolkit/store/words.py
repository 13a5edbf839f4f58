"""The words of one layer: every slot that anybody owns bits of has one, and in it each owner's code stands at the bits that it allocated.

Bit k of word i is bit `i * width + k` of the array; bit n is bit `n % 8` (0 = least significant) of byte `n // 8`. A code never crosses its word.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tsn_toolkit.store.part import PartError

ALIGNMENT_BYTES = 8
"""Size of a layer's array is a multiple of this, so that every array can start aligned in a file and in flash."""

_GUARD = bytes(2)
_CHUNK = 1 << 20


def words_size_bytes(count: int, width: int) -> int:
    """Bytes of an array of `count` words of `width` bits, padding included."""
    bits = ALIGNMENT_BYTES * 8
    return (count * width + bits - 1) // bits * ALIGNMENT_BYTES


@dataclass(frozen=True)
class Words:
    """An array of words.

    Attributes:
        count: number of words.
        width: bits per word.
        data: uint8 (words_size_bytes(count, width) + 2,); the last two bytes are 0 and stand in no file, so that two bytes can be read at every bit.
    """

    count: int
    width: int
    data: NDArray[np.uint8]

    @classmethod
    def zeros(cls, count: int, width: int) -> Words:
        """An array of words in which nobody owns a bit yet."""
        return cls(count, width, np.zeros(words_size_bytes(count, width) + len(_GUARD), np.uint8))

    @classmethod
    def from_bytes(cls, data: bytes, count: int, width: int) -> Words:
        """An array as it stands in a file.

        Raises:
            PartError: another number of bytes, or a bit set beyond the last word.
        """
        size_bytes = words_size_bytes(count, width)
        if len(data) != size_bytes:
            raise PartError(f"{count} words of {width} bits take {size_bytes} bytes, got {len(data)}")
        used_bits = count * width
        if int.from_bytes(data[used_bits // 8 :], "little") >> used_bits % 8:
            raise PartError(f"a bit is set beyond the last of {count} words of {width} bits")
        return cls(count, width, np.frombuffer(data + _GUARD, np.uint8))

    def to_bytes(self) -> bytes:
        """The array as it stands in a file."""
        return self.data[: -len(_GUARD)].tobytes()

    def read(self, words: NDArray[np.int64], offsets: NDArray[np.uint16], bits: int) -> NDArray[np.uint8]:
        """Codes of `bits` bits (0..8), each at its word and bit offset: all three arrays (n,)."""
        codes = np.empty(len(words), np.uint8)
        for part, byte, shift in self._places(words, offsets):
            pair = self.data[byte].astype(np.uint16) | self.data[byte + 1].astype(np.uint16) << 8
            codes[part] = pair >> shift & (1 << bits) - 1
        return codes

    def write_(self, words: NDArray[np.int64], offsets: NDArray[np.uint16], codes: NDArray[np.uint8]) -> None:
        """Puts codes into bits that were 0, in place; all three arrays (n,)."""
        for part, byte, shift in self._places(words, offsets):
            pair = codes[part].astype(np.uint16) << shift
            # No two codes share a bit, so that adding is joining; `add.at` is the fast one.
            np.add.at(self.data, byte, (pair & 0xFF).astype(np.uint8))
            np.add.at(self.data, byte + 1, (pair >> 8).astype(np.uint8))

    def flipped(self, word: int, bit: int) -> Words:
        """The same array with one bit of one word changed."""
        data = self.data.copy()
        place = word * self.width + bit
        data[place // 8] ^= np.uint8(1 << place % 8)
        return Words(self.count, self.width, data)

    def _places(self, words: NDArray[np.int64], offsets: NDArray[np.uint16]) -> Iterator[tuple[slice, NDArray[np.int64], NDArray[np.uint16]]]:
        """Byte and bit in it of each place, a million places at a time."""
        for start in range(0, len(words), _CHUNK):
            part = slice(start, start + _CHUNK)
            places = words[part] * self.width + offsets[part]
            yield part, places >> 3, (places & 7).astype(np.uint16)
