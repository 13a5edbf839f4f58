"""One data set: read by its source, labels checked, test taken out where there is none, limits applied, brought to one shape."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import torch

from tsn_toolkit import registry
from tsn_toolkit.contracts import Split
from tsn_toolkit.data.held_out import cells_of, split_test
from tsn_toolkit.data.input_shape import bring_to_shape
from tsn_toolkit.errors import DataError
from tsn_toolkit.recipe.environment import expand
from tsn_toolkit.recipe.schema import DataSection

SOURCES = "tsn_toolkit.data.sources"
"""Registry of data sources."""


def load_data(data: DataSection) -> tuple[Split, Split]:
    """Read the whole training and test part that a recipe names.

    Returns:
        train and test with the data's own labels, after `train_limit` and `test_limit`.

    Raises:
        DataError: a file is missing, truncated or mislabelled; train and test hold different classes, or the same examples; there is no test part
            and no `test_split`, or both; `test_limit` is below the number of classes; a class lacks a name; the examples cannot be brought to
            `input_shape`, or differ in shape; `data.mean` does not fit the channels.
        RecipeError: an environment variable of the path is not set.
    """
    source = registry.load(SOURCES, data.source, error=DataError)
    path = None if data.path is None else Path(expand(data.path))
    loaded, held_out = source.load(path, source.Options.model_validate(data.options))
    train, test = _with_test(loaded, held_out, data)
    if torch.equal(train.y, test.y) and torch.equal(train.x, test.x):
        raise DataError(f"{_where(data)}: train and test hold the same {len(test)} examples, and nothing would be measured. Name other test data.")
    _check_classes(train, test, data)
    if data.test_limit is not None and data.test_limit < (classes := len(class_labels(test))):
        raise DataError(f"{_where(data)} has {classes} classes, `test_limit` is {data.test_limit}: some would have no test example. Raise it.")
    train, test = (_named(_shaped(part, data), data) for part in (_limit(train, data.train_limit), _limit(test, data.test_limit)))
    if train.x.shape[1:] != test.x.shape[1:]:
        raise DataError(
            f"{_where(data)}: examples of train have shape {tuple(train.x.shape[1:])}, of test {tuple(test.x.shape[1:])}; a network takes one shape. "
            "Correct the files, or set `data.input_shape` for images."
        )
    channels = train.x.shape[1]
    if data.mean and len(data.mean) not in (1, channels):
        raise DataError(
            f"`data.mean` has {len(data.mean)} values, the examples of source {data.source} have {channels} channels. Give one per channel."
        )
    return train, test


def class_labels(split: Split) -> tuple[int, ...]:
    """The labels that occur, sorted."""
    return tuple(int(label) for label in torch.unique(split.y))


def data_hash(split: Split) -> str:
    """sha256 over the dtypes, shapes and bytes of a split's examples and labels."""
    digest = hashlib.sha256()
    for tensor in (split.x, split.y):
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(tensor.contiguous().cpu().numpy().data)
    return digest.hexdigest()


def _where(data: DataSection) -> str:
    return f"data source {data.source}" + (f" at {data.path}" if data.path else "")


def _with_test(train: Split, test: Split | None, data: DataSection) -> tuple[Split, Split]:
    """Train and test, the latter taken out of the former where the source has none."""
    if test is None:
        if data.test_split is None:
            raise DataError(f"{_where(data)} has no test part. Set `test_split`, for example to {{fraction: 0.2}}, to take one out of it.")
        return split_test(train, data.test_split)
    if data.test_split is not None:
        raise DataError(f"{_where(data)} has a test part of its own, beside `test_split` {data.test_split.model_dump()}. Remove the key.")
    return train, test


def _shaped(split: Split, data: DataSection) -> Split:
    if data.input_shape is None:
        return split
    x = bring_to_shape(split.x, data.input_shape, origin=_where(data))
    if x is split.x:
        return split
    reading = split.reading.then(f"brought to shape {data.input_shape}: bilinear with antialiasing, grey = .299 red + .587 green + .114 blue")
    return replace(split, x=x, reading=reading)


def _named(split: Split, data: DataSection) -> Split:
    """With the class names of the recipe, which go before those of the source.

    Raises:
        DataError: a class has none.
    """
    names = split.reading.class_names if data.class_names is None else data.class_names
    highest = int(split.y.max())
    if names and highest >= len(names):
        raise DataError(f"{_where(data)} has a class {highest}, its class names are {len(names)}, for 0 to {len(names) - 1}. Name every class.")
    return replace(split, reading=replace(split.reading, class_names=names))


def _check_classes(train: Split, test: Split, data: DataSection) -> None:
    where = _where(data)
    labels, counts = torch.unique(train.y, return_counts=True)
    for label, count in zip(labels.tolist(), counts.tolist(), strict=True):
        if count < 2:
            raise DataError(f"{where}: class {label} has {count} training example; it needs 2, one to validate. Correct it.")
    in_train, in_test = set(labels.tolist()), set(class_labels(test))
    only_train, only_test = sorted(in_train - in_test), sorted(in_test - in_train)
    if only_train or only_test:
        raise DataError(
            f"{where}: train and test must hold the same classes; only in train: {only_train[:8] or 'none'}, "
            f"only in test: {only_test[:8] or 'none'}. The files are mislabelled or do not belong together."
        )


def _limit(split: Split, limit: int | None) -> Split:
    """At most `limit` examples, the first of each class (and group) in turn, in the order of the data."""
    if limit is None or limit >= len(split):
        return split
    cells = cells_of(split)
    rank = torch.zeros_like(split.y)  # position of each example within its cell
    for cell in torch.unique(cells):
        members = torch.nonzero(cells == cell).squeeze(1)
        rank[members] = torch.arange(len(members))
    return split.take(torch.argsort(rank, stable=True)[:limit].sort().values)
