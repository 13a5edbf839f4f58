"""Sentences in the format of TREC and SST as they are commonly shared: a line is a label, a space, and tokens with spaces between them.

Tokens become one-hot columns, since a convolution of kernel 1 over one-hot columns is the lookup of a word's embedding: its weight has a column per
word, and is coded, shared, shrunk and exported like every other convolution.

    x[n, word, position] = 255 where the token at `position` is `word`, else 0      uint8; 1.0 after scaling

Word 0 stands for every word outside the vocabulary, which is made of the training part alone: the most frequent words, lower case, ties in the order
of the alphabet. Positions behind the end of a sentence are all 0, and tokens beyond `length` are cut off.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from tsn_toolkit.contracts import Split
from tsn_toolkit.data.examples import make_split, require_folder
from tsn_toolkit.errors import DataError

PRESENT = 255
"""What scaling to [0, 1] makes 1.0."""

Sentences = list[tuple[int, list[str]]]
"""(label, tokens in lower case) of every line."""


class Options(BaseModel):
    """Settings of the source."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    train: str = "TREC.train.all"
    """File of the training part."""
    test: str = "TREC.test.all"
    """File of the test part."""
    vocabulary: Annotated[int, Field(ge=2, le=65536)] = 512
    """Words that have a column, the one for all others among them."""
    length: Annotated[int, Field(ge=1, le=4096)] = 24
    """Tokens of a sentence that are read."""
    encoding: Literal["latin-1", "utf-8"] = "latin-1"
    """Of the files: TREC is latin-1, SST utf-8."""


def load(path: Path | None, options: Options) -> tuple[Split, Split]:
    """Read train and test, x uint8 (n, vocabulary, length).

    Raises:
        DataError: the folder or a file is missing or empty, a file has another encoding, a line has no label or no token, or the training part has
            fewer words than the vocabulary wants.
    """
    folder = require_folder(path, source="labelled_text", files=f"{options.train} and {options.test}")
    train, test = (_read_sentences(folder / name, options.encoding) for name in (options.train, options.test))
    words = _vocabulary(train, options.vocabulary, folder / options.train)
    return (
        make_split(_one_hot(train, words, options.length), _labels(train), origin=str(folder / options.train)),
        make_split(_one_hot(test, words, options.length), _labels(test), origin=str(folder / options.test)),
    )


def _read_sentences(file: Path, encoding: str) -> Sentences:
    """The lines of one file, checked."""
    if not file.is_file():
        raise DataError(f"data file {file} does not exist. Put it there or correct `data.path`, `data.options.train` and `data.options.test`.")
    try:
        text = file.read_bytes().decode(encoding)
    except UnicodeDecodeError as problem:
        raise DataError(f"{file} is not {encoding} ({problem}). Set `data.options.encoding` to latin-1.") from problem
    sentences: Sentences = []
    for number, line in enumerate(text.split("\n"), start=1):  # splitlines would also break at characters that words hold in latin-1
        label, *tokens = line.rstrip("\r").lower().split(" ")
        tokens = [token for token in tokens if token]
        if not label and not tokens:
            continue
        if not (label.isascii() and label.isdigit()) or not tokens:
            raise DataError(
                f"{file}, line {number}: {line[:60]!r} is no label, space and tokens, for example `0 How far is it ?`. Correct the line."
            )
        sentences.append((int(label), tokens))
    if not sentences:
        raise DataError(f"{file} holds no sentence; a line is a label, a space and tokens. Name another file.")
    return sentences


def _vocabulary(sentences: Sentences, size: int, file: Path) -> dict[str, int]:
    """Word -> column, 1 to size - 1."""
    counts = Counter(token for _, tokens in sentences for token in tokens)
    if len(counts) < size - 1:
        raise DataError(
            f"{file} has {len(counts)} different words, `data.options.vocabulary` asks for {size - 1} and one column for all others. "
            f"Set it to {len(counts) + 1} or less."
        )
    ranked = sorted(counts, key=lambda word: (-counts[word], word))
    return {word: column for column, word in enumerate(ranked[: size - 1], start=1)}


def _one_hot(sentences: Sentences, words: dict[str, int], length: int) -> NDArray[np.uint8]:
    """uint8 (n, words + 1, length)."""
    x = np.zeros((len(sentences), len(words) + 1, length), np.uint8)
    for row, (_, tokens) in enumerate(sentences):
        columns = [words.get(token, 0) for token in tokens[:length]]
        x[row, columns, np.arange(len(columns))] = PRESENT
    return x


def _labels(sentences: Sequence[tuple[int, list[str]]]) -> NDArray[np.int64]:
    return np.array([label for label, _ in sentences], np.int64)
