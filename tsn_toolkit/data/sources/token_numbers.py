"""Sentences as in `labelled-text`, each token as the number of its word, for networks that begin with an embedding.

A network gets float32 (n, length) and looks its words up with `self.words(x.long())`: whole numbers up to 2^24 are exact in float32. 0 stands behind
the end of a text, 1 for every word outside the vocabulary, the most frequent words follow from 2 on; so an embedding needs `vocabulary` + 1 rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tsn_toolkit.contracts import Reading, Split, TextForm
from tsn_toolkit.data.examples import make_split, require_folder
from tsn_toolkit.data.sources import labelled_text
from tsn_toolkit.data.tokens import vocabulary


class Options(labelled_text.Options):
    """Settings of the source."""


def load(path: Path | None, options: Options) -> tuple[Split, Split]:
    """Read train and test, x float32 (n, length).

    Raises:
        DataError: as `labelled_text.load`.
    """
    folder = require_folder(path, source="token_numbers", files=f"{options.train} and {options.test}")
    train, test = (labelled_text.read_sentences(folder / name, options.encoding) for name in (options.train, options.test))
    words = vocabulary([tokens for _, tokens in train], options.vocabulary, origin=str(folder / options.train))
    reading = Reading(text=TextForm(labelled_text.TOKEN, tuple(words), options.vocabulary, options.length, numbers=True))
    train_split, test_split = (
        make_split(_numbers(part, words, options.length), labelled_text.labels_of(part), origin=str(folder / name), reading=reading)
        for part, name in ((train, options.train), (test, options.test))
    )
    return train_split, test_split


def _numbers(sentences: Sequence[tuple[int, list[str]]], words: Mapping[str, int], length: int) -> NDArray[np.float32]:
    """float32 (n, length); `words` has 0 for none of them, so that all others lie one higher than their column there."""
    x = np.zeros((len(sentences), length), np.float32)
    for row, (_, tokens) in enumerate(sentences):
        found = [words.get(token, 0) + 1 for token in tokens[:length]]
        x[row, : len(found)] = found
    return x
