"""Entropy coding of symbol sequences with stored integer frequencies.

Symbols come in runs; all symbols of one run share one table of integer frequencies that sum to `TOTAL`. One ANS stream (constriction) holds the runs
in order. Symbols of frequency 0 are left out of the model, so that no stream can decode to them; a run with a single possible symbol costs nothing.
"""

from collections.abc import Sequence

import constriction
import numpy as np
from numpy.typing import ArrayLike, NDArray

from tsn_toolkit.numerics.errors import NumericsError
from tsn_toolkit.numerics.lookup import look_up
from tsn_toolkit.numerics.streams import coder_of, words_of

TOTAL = 1 << 15
"""Sum of a frequency table: all of them fit an unsigned 16-bit integer."""

_IMPOSSIBLE = 255  # an alphabet of 256 symbols in which one is impossible has no rank 255
_CHUNK = 1 << 18
"""Symbols handed to the coder at a time: its 32-bit symbols then take little memory."""


def quantize_frequencies(counts: ArrayLike) -> NDArray[np.int64]:
    """Integer frequencies that sum to `TOTAL`, in proportion to `counts`; 0 exactly where the count is 0.

    Args:
        counts: non-negative integers (alphabet,), 1..256 entries.

    Returns:
        int64 (alphabet,). All counts 0 gives everything to the first symbol.

    Raises:
        NumericsError: a count is negative or the alphabet too large.
    """
    exact = np.asarray(counts, np.int64)
    if not 1 <= exact.size <= 256 or exact.min() < 0:
        raise NumericsError(f"counts must be 1..256 non-negative integers, got {exact.tolist()[:8]}")
    number = int(exact.sum())
    if number == 0:
        exact, number = np.eye(1, exact.size, dtype=np.int64)[0], 1
    frequencies = np.where(exact > 0, np.maximum(exact * TOTAL // number, 1), 0)
    # With at most 256 symbols the largest frequency exceeds the number of those raised to 1, so it stays positive.
    frequencies[int(exact.argmax())] += TOTAL - int(frequencies.sum())
    return frequencies


def encode_runs(runs: Sequence[tuple[ArrayLike, ArrayLike]]) -> bytes:
    """Encodes runs of symbols into one stream.

    Args:
        runs: for each run its symbols (n,), integers below the alphabet's size, and the frequency table (alphabet,).

    Returns:
        ANS words (`streams.py`); none when every run is determined by its table.

    Raises:
        NumericsError: a symbol has frequency 0, or a table does not sum to `TOTAL`.
    """
    coder = constriction.stream.stack.AnsCoder()
    for symbols, frequencies in reversed(runs):
        table = _checked_table(frequencies)
        ranks, possible = _ranks(symbols, table)
        if len(possible) > 1:
            model = _model(table[possible])
            for start in reversed(range(0, len(ranks), _CHUNK)):
                coder.encode_reverse(ranks[start : start + _CHUNK].astype(np.int32), model)
    return words_of(coder)


class RunDecoder:
    """Reads the runs of one stream in the order in which they were encoded."""

    def __init__(self, data: bytes) -> None:
        """Opens a stream.

        Raises:
            NumericsError: `data` is not a whole number of words or ends in a zero word.
        """
        self._coder = coder_of(data)

    def read(self, frequencies: ArrayLike, count: int) -> NDArray[np.uint8]:
        """The next run: `count` symbols, uint8, none of frequency 0.

        Raises:
            NumericsError: the table does not sum to `TOTAL`.
        """
        table = _checked_table(frequencies)
        possible = np.flatnonzero(table).astype(np.uint8)
        if count == 0 or len(possible) == 1:
            return np.full(count, possible[0], np.uint8)
        model = _model(table[possible])
        ranks = np.empty(count, np.uint8)
        for start in range(0, count, _CHUNK):
            part = ranks[start : start + _CHUNK]
            part[:] = self._coder.decode(model, len(part))
        return ranks if int(possible[-1]) == len(possible) - 1 else look_up(ranks, possible)

    def finish(self) -> None:
        """Checks that the stream is used up, which a damaged stream rarely is.

        Raises:
            NumericsError: words are left.
        """
        if not self._coder.is_empty():
            raise NumericsError("a coded stream does not end where its last symbol ends")


def ideal_bits(counts: ArrayLike) -> float:
    """Entropy of symbol counts in bits: -sum n log2(n / N), over the last axis, summed over all others (contexts)."""
    table = np.asarray(counts, np.float64)
    totals = np.broadcast_to(table.sum(axis=-1, keepdims=True), table.shape)
    seen = table > 0
    return float((table[seen] * np.log2(totals[seen] / table[seen])).sum())


def coded_bits(counts: ArrayLike, frequencies: ArrayLike) -> float:
    """Bits that symbols with these counts cost under a stored table: sum n log2(TOTAL / frequency); shapes (..., alphabet)."""
    table = np.asarray(counts, np.float64)
    seen = table > 0
    return float((table[seen] * np.log2(TOTAL / np.asarray(frequencies, np.float64)[seen])).sum())


def _checked_table(frequencies: ArrayLike) -> NDArray[np.int64]:
    table = np.asarray(frequencies, np.int64)
    if not 1 <= table.size <= 256 or table.min() < 0 or int(table.sum()) != TOTAL:
        raise NumericsError(f"a frequency table must hold 1..256 non-negative integers with sum {TOTAL}, got {table.tolist()[:8]}")
    return table


def _ranks(symbols: ArrayLike, table: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.intp]]:
    """The symbols as ranks among those of nonzero frequency, and these."""
    flat = np.asarray(symbols, None if np.size(symbols) else np.uint8).reshape(-1)
    possible = np.flatnonzero(table)
    if flat.size and (flat.min() < 0 or flat.max() >= len(table)):
        raise NumericsError(f"a symbol has frequency 0 in its table {table.tolist()[:8]}")
    narrow = flat.astype(np.uint8, copy=False)
    if len(possible) == len(table):
        return narrow, possible
    ranks = np.full(len(table), _IMPOSSIBLE, np.uint8)
    ranks[possible] = np.arange(len(possible))
    ranked = look_up(narrow, ranks)
    if (ranked == _IMPOSSIBLE).any():
        raise NumericsError(f"a symbol has frequency 0 in its table {table.tolist()[:8]}")
    return ranked, possible


def _model(table: NDArray[np.int64]) -> object:
    return constriction.stream.model.Categorical(table.astype(np.float64) / TOTAL, perfect=False)
