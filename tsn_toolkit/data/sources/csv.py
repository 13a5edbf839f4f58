"""Tables with a header line: numbers as features, or one column of text as tokens.

Labels that are all whole numbers stand for themselves; others are names, numbered in the order of the alphabet as they occur in training. A text's
tokens are its words in lower case, letters and digits together and every other character by itself. A vocabulary is made of the training part alone;
hashed tokens need none.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from tsn_toolkit.contracts import Reading, Split, TextForm
from tsn_toolkit.data.class_names import number_classes
from tsn_toolkit.data.examples import make_split, require_folder
from tsn_toolkit.data.tokens import hashed_column, one_hot, vocabulary
from tsn_toolkit.errors import DataError
from tsn_toolkit.registry import did_you_mean

TOKEN = r"\w+|[^\w\s]"
"""A token of a text."""

_WHOLE = re.compile(r"[0-9]+")
LABEL_DIGITS = 18
"""Numbers of so many digits fit into int64."""
BYTE_ORDER_MARK = "\ufeff"
"""Spreadsheets write it in front of the header."""


class Options(BaseModel):
    """Settings of the source."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    train: str = "train.csv"
    """File of the training part."""
    test: str | None = "test.csv"
    """File of the test part; null: there is none."""
    label: str = "label"
    """Column of the labels."""
    text: str | None = None
    """Column of the text; null: the features are numbers."""
    features: tuple[str, ...] = Field((), strict=False)
    """Columns of numbers, in order; empty: all but the label."""
    tokens: Literal["vocabulary", "hash"] = "vocabulary"
    """How words become columns: the most frequent ones of training, or by a hash of the word."""
    vocabulary: Annotated[int, Field(ge=2, le=65536)] = 512
    """Columns of a text."""
    length: Annotated[int, Field(ge=1, le=4096)] = 64
    """Tokens of a text that are read."""
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] = ","
    """Between the cells of a line."""
    encoding: str = "utf-8"
    """Of the files."""

    @model_validator(mode="after")
    def _label_apart(self) -> Options:
        if self.label in (self.text, *self.features):
            raise ValueError(f"column {self.label!r} is the label and cannot be an input too; leave it out of `features` and `text`")
        return self


@dataclass(frozen=True)
class _Table:
    """One file: where it is, its column names, and per row the number of its line and its cells."""

    file: Path
    header: list[str]
    rows: list[tuple[int, list[str]]]

    def column(self, name: str, key: str) -> list[str]:
        """The cells of a column; `key` is the option that names it."""
        if name not in self.header:
            hint = did_you_mean(name, self.header)
            raise DataError(f"{self.file} has no column {name!r}{hint}; it has {', '.join(self.header)}. Correct `data.options.{key}`.")
        position = self.header.index(name)
        return [cells[position] for _, cells in self.rows]


def load(path: Path | None, options: Options) -> tuple[Split, Split | None]:
    """Read train and test; x float32 (n, features), or uint8 (n, vocabulary, length) of a text.

    Raises:
        DataError: a file is missing, empty, of another encoding or not a table; a column is missing; a cell is no number; a label does not occur in
            training or has too many digits; a vocabulary is asked of data whose test part is not known yet.
    """
    files = [name for name in (options.train, options.test) if name is not None]
    folder = require_folder(path, source="csv", files=" and ".join(files))
    if options.text is not None and options.test is None and options.tokens == "vocabulary":
        raise DataError(
            "`data.options.test` is null, so that test is taken out of train later, but a vocabulary must not see it. Set `data.options.tokens` to "
            "hash."
        )
    tables = [_read_table(folder / name, options) for name in files]
    names, labels = _labels(tables, options.label)
    x, reading = _numbers(tables, options) if options.text is None else _texts(tables, options.text, options)
    reading = replace(reading, class_names=names)
    splits = [make_split(values, y, origin=str(table.file), reading=reading) for table, values, y in zip(tables, x, labels, strict=True)]
    return splits[0], splits[1] if len(splits) > 1 else None


def _read_table(file: Path, options: Options) -> _Table:
    if not file.is_file():
        raise DataError(f"data file {file} does not exist. Put it there or correct `data.path`, `data.options.train` and `data.options.test`.")
    try:
        with file.open(encoding=options.encoding, newline="") as stream:
            reader = csv.reader(stream, delimiter=options.delimiter, strict=True)
            header = [name.removeprefix(BYTE_ORDER_MARK) for name in next(reader, [])]
            rows = [(reader.line_num, cells) for cells in reader if cells]
    except (UnicodeDecodeError, LookupError) as problem:
        raise DataError(f"{file} is not {options.encoding} ({problem}). Correct `data.options.encoding`.") from problem
    except csv.Error as problem:
        raise DataError(f"{file}, line {reader.line_num}: {problem}. Correct the line or `data.options.delimiter`.") from problem
    if not rows:
        raise DataError(f"{file} holds no row below its header. Name another file.")
    for name in header:
        if header.count(name) > 1:
            raise DataError(f"{file} has {header.count(name)} columns {name!r}; each column needs a name of its own. Rename one.")
    for line, cells in rows:
        if len(cells) != len(header):
            raise DataError(f"{file}, line {line}: {len(cells)} cells, the header has {len(header)}. Correct the line or `data.options.delimiter`.")
    return _Table(file, header, rows)


def _labels(tables: Sequence[_Table], name: str) -> tuple[tuple[str, ...], list[NDArray[np.int64]]]:
    """Names of the classes, none where labels are numbers, and the labels of each table."""
    columns = [[cell.strip() for cell in table.column(name, "label")] for table in tables]
    if all(_WHOLE.fullmatch(cell) for column in columns for cell in column):
        return (), [_whole(table, column) for table, column in zip(tables, columns, strict=True)]
    for table, column in zip(tables, columns, strict=True):
        if "" in column:
            raise DataError(f"{table.file}, line {table.rows[column.index('')][0]}: the label is empty. Fill it in or remove the line.")
    known = sorted(set(columns[0]))
    return tuple(known), [number_classes(column, known, origin=str(table.file)) for table, column in zip(tables, columns, strict=True)]


def _whole(table: _Table, column: list[str]) -> NDArray[np.int64]:
    for (line, _), cell in zip(table.rows, column, strict=True):
        if len(cell) > LABEL_DIGITS:
            raise DataError(f"{table.file}, line {line}: label {cell[:40]!r} has more than {LABEL_DIGITS} digits. Number the classes anew.")
    return np.array([int(cell) for cell in column], np.int64)


def _numbers(tables: Sequence[_Table], options: Options) -> tuple[Sequence[NDArray[Any]], Reading]:
    """Of each table float64 (n, features)."""
    names = options.features or tuple(name for name in tables[0].header if name != options.label)
    if not names:
        raise DataError(f"{tables[0].file} has no column beside the label {options.label!r}. Name another file.")
    values = [np.stack([_number_column(table, name) for name in names], axis=1) for table in tables]
    return values, Reading(steps=(f"the numbers {', '.join(names)} in this order",))


def _number_column(table: _Table, name: str) -> NDArray[np.float64]:
    cells = table.column(name, "features")
    try:
        return np.array([float(cell) for cell in cells])
    except ValueError:
        line, cell = next((line, cell) for (line, _), cell in zip(table.rows, cells, strict=True) if not _is_number(cell))
        raise DataError(
            f"{table.file}, line {line}: column {name!r} holds {cell[:40]!r}, which is no number. Correct it, leave the column out of "
            "`data.options.features`, or name a column of text in `data.options.text`."
        ) from None


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _texts(tables: Sequence[_Table], name: str, options: Options) -> tuple[Sequence[NDArray[Any]], Reading]:
    """Of each table uint8 (n, vocabulary, length)."""
    tokens = [[re.findall(TOKEN, cell.lower()) for cell in table.column(name, "text")] for table in tables]
    words: dict[str, int] = {}
    if options.tokens == "hash":
        column_of = partial(hashed_column, size=options.vocabulary)
    else:
        words = vocabulary(tokens[0], options.vocabulary, origin=str(tables[0].file))
        column_of = partial(_column_in, words)
    values = [one_hot(texts, column_of, size=options.vocabulary, length=options.length) for texts in tokens]
    return values, Reading(text=TextForm(TOKEN, tuple(words), options.vocabulary, options.length))


def _column_in(words: dict[str, int], word: str) -> int:
    return words.get(word, 0)
