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
    """Hold out a fraction of each class, at least one example (one recording) and never all.

    Args:
        train: the task's training examples.
        fraction: in (0, 1).
        seed: of the recipe.
        index: of the task.

    Returns:
        (rest, validation), both in the order of the data.

    Raises:
        DataError: a class has fewer than 2 examples, or all of them are of one recording.
    """
    labels, counts = torch.unique(train.y, return_counts=True)
    for label, count in zip(labels.tolist(), counts.tolist(), strict=True):
        if count < 2:
            raise DataError(f"class {label} of task {index} has {count} training example, it needs 2. Raise `data.train_limit`.")
    held = _held(train, train.y, fraction, raw_numbers(seed, index, Stream.VALIDATION, len(train)))
    return train.take(~held), train.take(held)


def split_test(whole: Split, settings: TestSplitSection) -> tuple[Split, Split]:
    """Take test out of data that has no test part: a fraction of each class (of each subject), at least one example (one recording) and never all.

    Args:
        whole: all examples.
        settings: fraction and seed.

    Returns:
        (train, test), both in the order of the data.

    Raises:
        DataError: all examples of a class (of a subject) are of one recording.
    """
    held = _held(whole, cells_of(whole), settings.fraction, raw_numbers(settings.seed, 0, Stream.TEST, len(whole)))
    return whole.take(~held), whole.take(held)


def _held(split: Split, cells: torch.Tensor, fraction: float, keys: NDArray[np.uint64]) -> torch.Tensor:
    """Bool (n,): of each cell the fraction with the smallest keys; whole recordings, so that the fraction is met as nearly as they allow."""
    held = np.zeros(len(keys), np.bool_)
    numbers = cells.numpy()
    for cell in np.unique(numbers):
        members = np.flatnonzero(numbers == cell)
        if split.recording is None:
            count = min(max(1, round(fraction * len(members))), len(members) - 1)
            held[members[np.argsort(keys[members], kind="stable")[:count]]] = True
        else:
            held[members] = _held_recordings(split.recording.numpy()[members], keys[members], fraction, where=f"class {int(split.y[members[0]])}")
    return torch.from_numpy(held)


def _held_recordings(recordings: NDArray[np.int64], keys: NDArray[np.uint64], fraction: float, *, where: str) -> NDArray[np.bool_]:
    """Bool (n,): the examples of the recordings with the smallest keys, as many recordings as come nearest to the fraction of the examples."""
    found, index, sizes = np.unique(recordings, return_inverse=True, return_counts=True)
    if len(found) < 2:
        raise DataError(f"all {len(recordings)} examples of {where} are of one recording, none can be held out. Take more subjects per task.")
    smallest = np.full(len(found), np.iinfo(np.uint64).max, np.uint64)
    np.minimum.at(smallest, index, keys)
    order = np.argsort(smallest, kind="stable")
    distance = np.abs(np.cumsum(sizes[order])[:-1] - fraction * len(recordings))
    chosen = np.zeros(len(found), np.bool_)
    chosen[order[: int(distance.argmin()) + 1]] = True
    return chosen[index]
