"""ANS words as bytes, and when a large run leaves them for a payload of its own (`large_runs.py`).

Bytes: the little-endian 32-bit words of constriction's AnsCoder; the last one is not zero.
"""

import constriction
import numpy as np

from tsn_toolkit.numerics.errors import NumericsError

LARGE = 1 << 14
"""Symbols from which on a run may have a payload of its own."""

SLACK = 0.02
"""How much larger than its ANS words, as a fraction, a payload may be; it is decoded many times faster."""

_WORD_BYTES = 4


def worth_it(payload: bytes, coded_bits: float) -> bool:
    """Whether a payload is chosen over ANS words of so many bits."""
    return len(payload) + _WORD_BYTES <= (1 + SLACK) * coded_bits / 8


def words_of(coder: constriction.stream.stack.AnsCoder) -> bytes:
    """The words that a coder holds."""
    return np.asarray(coder.get_compressed(), np.uint32).astype("<u4").tobytes()


def coder_of(data: bytes) -> constriction.stream.stack.AnsCoder:
    """A coder that holds these words.

    Raises:
        NumericsError: `data` is not a whole number of words or ends in a zero word.
    """
    if len(data) % _WORD_BYTES or data[-_WORD_BYTES:] == bytes(_WORD_BYTES):
        raise NumericsError(f"a stream of {len(data)} bytes is not a whole number of 32-bit words ending in a nonzero one")
    return constriction.stream.stack.AnsCoder(np.frombuffer(data, "<u4").astype(np.uint32))
