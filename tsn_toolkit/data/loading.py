"""The data of a recipe: source, labels checked, limits applied."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch

from tsn_toolkit import registry
from tsn_toolkit.contracts import Split
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
        DataError: a file is missing, truncated or mislabelled; train and test hold different classes; `data.mean` does not fit the channels.
        RecipeError: an environment variable of the path is not set.
    """
    source = registry.load(SOURCES, data.source, error=DataError)
    path = None if data.path is None else Path(expand(data.path))
    train, test = source.load(path, source.Options.model_validate(data.options))
    _check_classes(train, test, data)
    channels = train.x.shape[1]
    if data.mean and len(data.mean) not in (1, channels):
        raise DataError(
            f"`data.mean` has {len(data.mean)} values, the examples of source {data.source} have {channels} channels. Give one per channel."
        )
    return _limit(train, data.train_limit), _limit(test, data.test_limit)


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


def _check_classes(train: Split, test: Split, data: DataSection) -> None:
    where = f"data source {data.source}" + (f" at {data.path}" if data.path else "")
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
    """At most `limit` examples, the first of each class in turn, in the order of the data."""
    if limit is None or limit >= len(split):
        return split
    rank = torch.zeros_like(split.y)  # position of each example within its class
    for label in class_labels(split):
        members = torch.nonzero(split.y == label).squeeze(1)
        rank[members] = torch.arange(len(members))
    chosen = torch.argsort(rank, stable=True)[:limit].sort().values
    return Split(split.x[chosen], split.y[chosen])
