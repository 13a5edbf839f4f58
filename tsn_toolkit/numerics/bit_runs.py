"""Runs of bits in one ANS stream (constriction); all bits of a run share one stored chance.

The chance of a one is a byte: an index into `CHANCES`, frequencies out of 2**15. 0 and the last index are certain: such a run takes no part in the
stream. The steps are so fine that an index costs at most about a thousandth more than the exact frequency, which would take two bytes.

Eight bits of a run are one symbol (the first bit is the least significant), the last n % 8 bits one smaller symbol. With a chance f, a symbol of j
bits with k ones has the frequency 1 + floor((2**24 - 2**j) * f**k * (2**15 - f)**(j - k) / 2**(15 j)) out of 2**24; what is left of 2**24 goes to the
symbol without ones if f <= 2**14, else to the symbol without zeros. So every symbol can be decoded, and eight bits cost one step of the coder.
"""

from collections.abc import Sequence
from functools import lru_cache

import constriction
import numpy as np
from numpy.typing import ArrayLike, NDArray

from tsn_toolkit.numerics.errors import NumericsError
from tsn_toolkit.numerics.packed_codes import PackedCodes
from tsn_toolkit.numerics.streams import coder_of, words_of

TOTAL = 1 << 15
"""Frequencies of chances are out of this."""


def _chances() -> NDArray[np.int64]:
    coarse = [(8 + step) << octave for octave in range(7) for step in range(8)]
    fine = [(16 + step) << octave for octave in range(6, 10) for step in range(16)]
    low = [0, 4, 5, 6, 7, *coarse, *fine]
    return np.array([*low, TOTAL // 2, *(TOTAL - chance for chance in reversed(low))], np.int64)


CHANCES = _chances()
"""int64 (251,): frequency of a one out of `TOTAL`, ascending from never to always."""

NEVER, ALWAYS = 0, len(CHANCES) - 1

_PRECISION = 24
_BYTE = 8
_CHUNK = 1 << 18
_DECODED = 1 << 14
"""Symbols decoded at a time: in the 32 bits that the coder takes for each they stay in a processor's cache."""
_LAZY_BELOW = TOTAL // 40
"""Below this chance a linear search for the symbol, most likely first, beats a binary one; both decode the same."""

Run = tuple[NDArray[np.uint8], int]
"""Bits (n,) of 0 and 1, and the index of their chance."""


def nearest_chance(ones: ArrayLike, totals: ArrayLike) -> NDArray[np.uint8]:
    """The index of the chance that codes runs in the fewest bits.

    Args:
        ones: how many ones each run holds, shape (...).
        totals: how many bits.

    Returns:
        uint8 (...); `NEVER` and `ALWAYS` exactly where a run holds no one or no zero (`NEVER` for an empty run).
    """
    count, total = np.asarray(ones, np.float64), np.asarray(totals, np.float64)
    share = np.divide(count * TOTAL, total, out=np.zeros_like(count), where=total > 0)
    upper = np.clip(np.searchsorted(CHANCES, share), 2, ALWAYS - 1)
    lower_is_better = chance_bits(count, total, upper - 1) <= chance_bits(count, total, upper)
    index = np.where(lower_is_better, upper - 1, upper)
    return np.where(count == 0, NEVER, np.where(count == total, ALWAYS, index)).astype(np.uint8)


def chance_bits(ones: ArrayLike, totals: ArrayLike, index: ArrayLike) -> NDArray[np.float64]:
    """Bits that runs cost under stored chances, shape (...); 0 for certain runs."""
    count, zeros = np.asarray(ones, np.float64), np.asarray(totals, np.float64) - np.asarray(ones, np.float64)
    chance = CHANCES[np.asarray(index)] / TOTAL
    with np.errstate(divide="ignore", invalid="ignore"):
        of_ones = np.where(count > 0, -count * np.log2(chance), 0.0)
        of_zeros = np.where(zeros > 0, -zeros * np.log2(1.0 - chance), 0.0)
    return np.asarray(of_ones + of_zeros, np.float64)


def encode_bit_runs(runs: Sequence[Run]) -> bytes:
    """Encodes runs into one stream.

    Returns:
        ANS words (`streams.py`); none when all runs are certain.

    Raises:
        NumericsError: a bit is not 0 or 1, or differs in a certain run.
    """
    coder = constriction.stream.stack.AnsCoder()
    for bits, chance in reversed(runs):
        if bits.size and (bits.max() > 1 or (chance == NEVER and bits.any()) or (chance == ALWAYS and not bits.all())):
            raise NumericsError(f"a run of {bits.size} bits holds one that its chance {int(CHANCES[chance])} of {TOTAL} excludes")
        if chance in (NEVER, ALWAYS):
            continue
        whole = len(bits) // _BYTE
        if len(bits) % _BYTE:
            rest = np.packbits(bits[whole * _BYTE :], bitorder="little").astype(np.int32)
            coder.encode_reverse(rest, _model(chance, len(bits) % _BYTE, False))
        symbols = np.packbits(bits[: whole * _BYTE], bitorder="little")
        for start in reversed(range(0, whole, _CHUNK)):
            coder.encode_reverse(symbols[start : start + _CHUNK].astype(np.int32), _model(chance, _BYTE, False))
    return words_of(coder)


class BitDecoder:
    """Reads the runs of one stream in the order in which they were encoded."""

    def __init__(self, data: bytes) -> None:
        """Opens a stream.

        Raises:
            NumericsError: `data` is not a whole number of words or ends in a zero word.
        """
        self._coder = coder_of(data)

    def read(self, chance: int, count: int) -> NDArray[np.uint8]:
        """The next run: `count` bits, uint8; see `read_packed`."""
        return self.read_packed(chance, count).codes()

    def read_packed(self, chance: int, count: int) -> PackedCodes:
        """The next run: `count` bits.

        Raises:
            NumericsError: there is no such chance.
        """
        if not 0 <= chance <= ALWAYS:
            raise NumericsError(f"a chance is an index in 0..{ALWAYS}, got {chance}")
        if chance in (NEVER, ALWAYS) or count == 0:
            return PackedCodes.plain(np.broadcast_to(np.uint8(chance == ALWAYS), count))
        whole, rest = divmod(count, _BYTE)
        symbols = np.empty(whole + (rest > 0), np.uint8)
        lazy = int(CHANCES[chance]) < _LAZY_BELOW
        for start in range(0, whole, _DECODED):
            part = symbols[start : min(start + _DECODED, whole)]
            part[:] = self._coder.decode(_model(chance, _BYTE, lazy), len(part))
        if rest:
            symbols[whole] = self._coder.decode(_model(chance, rest, False), 1)[0]
        return PackedCodes(symbols, 1, count)

    def finish(self) -> None:
        """Checks that the stream is used up, which a damaged stream rarely is.

        Raises:
            NumericsError: words are left.
        """
        if not self._coder.is_empty():
            raise NumericsError("a stream of bits does not end where its last bit ends")


def symbol_frequencies(chance: int, bits: int) -> NDArray[np.int64]:
    """Frequencies out of 2**24 of the 2**bits symbols of `bits` bits under a chance: int64, all positive."""
    one, spare = int(CHANCES[chance]), (1 << _PRECISION) - (1 << bits)
    by_ones = [1 + (spare * one**ones * (TOTAL - one) ** (bits - ones) >> 15 * bits) for ones in range(bits + 1)]
    ones_of = np.unpackbits(np.arange(1 << bits, dtype=np.uint8)[:, None], axis=1).sum(axis=1)
    frequencies: NDArray[np.int64] = np.array(by_ones, np.int64)[ones_of]
    frequencies[0 if one <= TOTAL // 2 else -1] += (1 << _PRECISION) - int(frequencies.sum())
    return frequencies


@lru_cache(maxsize=4096)
def _model(chance: int, bits: int, lazy: bool) -> object:
    # constriction gives each symbol one of 2**24 steps and divides the rest in proportion; less that one, all numbers here are exact.
    probabilities = (symbol_frequencies(chance, bits) - 1) / (1 << _PRECISION)
    return constriction.stream.model.Categorical(probabilities, perfect=False, lazy=lazy)
