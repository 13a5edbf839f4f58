"""Sentences in the format of TREC and SST as they are commonly shared: a line is a label, a space, and tokens with spaces between them.

Tokens become one-hot columns (`data/tokens.py`). The vocabulary is made of the training part alone, in lower case.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from tsn_toolkit.contracts import Reading, Split, TextForm
from tsn_toolkit.data.examples import make_split, require_folder
from tsn_toolkit.data.tokens import one_hot, vocabulary
from tsn_toolkit.errors import DataError

TOKEN = "[^ ]+"
"""A token of a line."""

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
    train, test = (read_sentences(folder / name, options.encoding) for name in (options.train, options.test))
    words = vocabulary([tokens for _, tokens in train], options.vocabulary, origin=str(folder / options.train))
    reading = Reading(text=TextForm(TOKEN, tuple(words), options.vocabulary, options.length))
    return (
        make_split(_one_hot(train, words, options.length), labels_of(train), origin=str(folder / options.train), reading=reading),
        make_split(_one_hot(test, words, options.length), labels_of(test), origin=str(folder / options.test), reading=reading),
    )


def read_sentences(file: Path, encoding: str) -> Sentences:
    """The lines of one file, checked.

    Raises:
        DataError: see `load`.
    """
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
            raise DataError(f"{file}, line {number}: {line[:60]!r} is no label, space and tokens, for example `0 How far is it ?`. Correct the line.")
        sentences.append((int(label), tokens))
    if not sentences:
        raise DataError(f"{file} holds no sentence; a line is a label, a space and tokens. Name another file.")
    return sentences


def _one_hot(sentences: Sentences, words: dict[str, int], length: int) -> NDArray[np.uint8]:
    """uint8 (n, words + 1, length)."""
    texts = [tokens for _, tokens in sentences]
    return one_hot(texts, lambda word: words.get(word, 0), size=len(words) + 1, length=length)


def labels_of(sentences: Sequence[tuple[int, list[str]]]) -> NDArray[np.int64]:
    """int64 (n,), one for each sentence."""
    return np.array([label for label, _ in sentences], np.int64)
