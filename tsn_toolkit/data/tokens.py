"""Tokens of text as one-hot columns.

A convolution of kernel 1 over one-hot columns is the lookup of a word's embedding: its weight has a column per word, and is coded, shared, shrunk and
exported like every other convolution.

    x[n, word, position] = 255 where the token at `position` is `word`, else 0      uint8; 1.0 after scaling

Word 0 stands for every word outside a vocabulary. Positions behind the end of a text are all 0, and tokens beyond the length are cut off.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from tsn_toolkit.errors import DataError

PRESENT = 255
"""What scaling to [0, 1] makes 1.0."""


def vocabulary(texts: Sequence[Sequence[str]], size: int, *, origin: str) -> dict[str, int]:
    """Word -> column, 1 to size - 1: the most frequent words, ties in the order of the alphabet.

    Args:
        texts: tokens of each text of the training part.
        size: columns, the one for all other words among them.
        origin: where the texts come from, for messages.

    Raises:
        DataError: the texts have fewer words than that.
    """
    counts = Counter(token for tokens in texts for token in tokens)
    if len(counts) < size - 1:
        raise DataError(
            f"{origin} has {len(counts)} different words, `data.options.vocabulary` asks for {size - 1} and one column for all others. "
            f"Set it to {len(counts) + 1} or less."
        )
    ranked = sorted(counts, key=lambda word: (-counts[word], word))
    return {word: column for column, word in enumerate(ranked[: size - 1], start=1)}


def hashed_column(word: str, size: int) -> int:
    """A column, 0 to size - 1, that follows from the word alone (CRC-32); words may share one.

    >>> hashed_column("cat", 512) == hashed_column("cat", 512)
    True
    """
    return zlib.crc32(word.encode("utf-8")) % size


def one_hot(texts: Sequence[Sequence[str]], column_of: Callable[[str], int], *, size: int, length: int) -> NDArray[np.uint8]:
    """Texts as columns.

    Args:
        texts: tokens of each text.
        column_of: word -> 0 to size - 1.
        size: columns.
        length: tokens of a text that are read.

    Returns:
        uint8 (n, size, length).
    """
    x = np.zeros((len(texts), size, length), np.uint8)
    for row, tokens in enumerate(texts):
        columns = [column_of(token) for token in tokens[:length]]
        x[row, columns, np.arange(len(columns))] = PRESENT
    return x
