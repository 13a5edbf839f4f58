"""Stratified parts that training does not see: validation of a task, and test of data that comes without a test part."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from tsn_toolkit.contracts import Split
from tsn_toolkit.data.streams import Stream, raw_numbers
from tsn_toolkit.errors import DataError
from tsn_toolkit.recipe.schema import TestSplitSection


def cells_of(split: Split) -> torch.Tensor:
    """Which examples belong together when examples are dealt out: int64 (n,), a number per class, or per class and group where there are groups."""
    if split.group is None:
        return split.y
    cells: torch.Tensor = torch.unique(torch.stack([split.group, split.y]), dim=1, return_inverse=True)[1]
    return cells


def split_validation(train: Split, fraction: float, seed: int, index: int) -> tuple[Split, Split]:
    """Hold out a fraction of each class, at least one example and never all.

    Args:
        train: the task's training examples.
        fraction: in (0, 1).
        seed: of the recipe.
        index: of the task.

    Returns:
        (rest, validation), both in the order of the data.

    Raises:
        DataError: a class has fewer than 2 examples.
    """
    labels, counts = torch.unique(train.y, return_counts=True)
    for label, count in zip(labels.tolist(), counts.tolist(), strict=True):
        if count < 2:
            raise DataError(f"class {label} of task {index} has {count} training example, it needs 2. Raise `data.train_limit`.")
    held = _held(train.y, fraction, raw_numbers(seed, index, Stream.VALIDATION, len(train)))
    return train.take(~held), train.take(held)


def split_test(whole: Split, settings: TestSplitSection) -> tuple[Split, Split]:
    """Take test out of data that has no test part: a fraction of each class (of each subject), at least one example and never all.

    Args:
        whole: all examples.
        settings: fraction and seed.

    Returns:
        (train, test), both in the order of the data.
    """
    held = _held(cells_of(whole), settings.fraction, raw_numbers(settings.seed, 0, Stream.TEST, len(whole)))
    return whole.take(~held), whole.take(held)


def _held(cells: torch.Tensor, fraction: float, keys: NDArray[np.uint64]) -> torch.Tensor:
    """Bool (n,): of each cell the fraction with the smallest keys."""
    held = np.zeros(len(keys), np.bool_)
    numbers = cells.numpy()
    for cell in np.unique(numbers):
        members = np.flatnonzero(numbers == cell)
        count = min(max(1, round(fraction * len(members))), len(members) - 1)
        held[members[np.argsort(keys[members], kind="stable")[:count]]] = True
    return torch.from_numpy(held)
