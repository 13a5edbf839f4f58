"""Tasks out of data: class splits and pixel permutations, each with train, validation and test.

Everything random follows from (recipe seed, index of the task), so that task k is the same whichever other tasks there are. Random orders are
argsorts of Philox's raw 64-bit output, which no numpy version changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

import numpy as np
import torch
from numpy.typing import NDArray

from tsn_toolkit.contracts import Split, TaskData
from tsn_toolkit.data.loading import class_labels, load_data
from tsn_toolkit.data.normalisation import normalise
from tsn_toolkit.errors import DataError, RecipeError
from tsn_toolkit.recipe.schema import DataSection, ExplicitTask, Recipe, TasksSection

__all__ = ["load_task", "make_tasks", "normalise", "permute_pixels", "split_validation", "task_names"]


class _Stream(IntEnum):
    """What a random stream is used for; each gets numbers of its own."""

    CLASS_ORDER = 1
    VALIDATION = 2
    PIXELS = 3


def task_names(recipe: Recipe) -> tuple[str, ...]:
    """Names of the recipe's tasks, in order.

    Raises:
        RecipeError: the tasks do not fit the classes of the data.
        DataError: the data cannot be read (it is read unless the recipe lists its tasks or permutations).
    """
    tasks = recipe.tasks
    if tasks.split == "explicit":
        return tuple(task.name for task in tasks.explicit)
    if tasks.split == "permutation":
        return _permutation_names(tasks)
    train, _ = load_data(recipe.data)
    return tuple(task.name for task in _class_tasks(tasks, class_labels(train), recipe.seed))


def load_task(recipe: Recipe, index: int) -> TaskData:
    """The data of one task.

    Args:
        recipe: the recipe.
        index: 0-based position of the task.

    Returns:
        Labels 0..n-1 in the order of `classes`; validation is carved from train, stratified by class.

    Raises:
        RecipeError: there is no task `index`, or the tasks do not fit the classes of the data.
        DataError: the data cannot be read, or a class has too few examples.
    """
    train, test = load_data(recipe.data)
    labels = class_labels(train)
    if recipe.tasks.split == "permutation":
        names = _permutation_names(recipe.tasks)
        _check_index(index, len(names))
        name, classes = names[index], labels
        train, test = permute_pixels(train, recipe.seed, index), permute_pixels(test, recipe.seed, index)
    else:
        tasks = _class_tasks(recipe.tasks, labels, recipe.seed)
        _check_index(index, len(tasks))
        name, classes = tasks[index].name, tasks[index].classes
        train, test = _select(train, classes), _select(test, classes)
    rest, validation = split_validation(train, recipe.data.validation, recipe.seed, index)
    mean, std = _per_channel(recipe.data, train)
    return TaskData(name, classes, _relabel(rest, classes), _relabel(validation, classes), _relabel(test, classes), mean, std)


def make_tasks(recipe: Recipe) -> tuple[TaskData, ...]:
    """All tasks at once; `load_task` keeps only one in memory.

    Raises:
        RecipeError, DataError: as `load_task`.
    """
    return tuple(load_task(recipe, index) for index in range(len(task_names(recipe))))


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
    keys = _raw(seed, index, _Stream.VALIDATION, len(train))
    held = np.zeros(len(train), np.bool_)
    labels = train.y.numpy()
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        if len(members) < 2:
            raise DataError(f"class {label} of task {index} has {len(members)} training example, it needs 2. Raise `data.train_limit`.")
        count = min(max(1, round(fraction * len(members))), len(members) - 1)
        held[members[np.argsort(keys[members], kind="stable")[:count]]] = True
    validation = torch.from_numpy(held)
    return Split(train.x[~validation], train.y[~validation]), Split(train.x[validation], train.y[validation])


def permute_pixels(split: Split, seed: int, index: int) -> Split:
    """Permute the positions of every example in the same way, channels kept together; task 0 is the identity.

    Args:
        split: x (n, features) or (n, channels, ...).
        seed: of the recipe.
        index: of the task.
    """
    if index == 0:
        return split
    lead = 1 if split.x.ndim == 2 else 2
    flat = split.x.flatten(lead) if split.x.ndim > lead else split.x  # (n, features) or (n, channels, positions)
    order = np.argsort(_raw(seed, index, _Stream.PIXELS, flat.shape[-1]), kind="stable")
    return Split(flat[..., torch.from_numpy(order)].reshape(split.x.shape), split.y)


def _class_tasks(tasks: TasksSection, labels: Sequence[int], seed: int) -> tuple[ExplicitTask, ...]:
    """Name and classes of each task of a class split, checked against the labels of the data."""
    if tasks.split == "explicit":
        for position, task in enumerate(tasks.explicit):
            unknown = sorted(set(task.classes) - set(labels))
            if unknown:
                raise RecipeError(f"tasks.explicit.{position}.classes: the data has no class {unknown[0]}, only {_span(labels)}. Correct it.")
        return tasks.explicit
    if len(labels) % tasks.per_task:
        divisors = [size for size in range(2, len(labels) + 1) if len(labels) % size == 0]
        raise RecipeError(f"tasks.per_task: must divide the {len(labels)} classes of the data, got {tasks.per_task}; {divisors} do. Change it.")
    possible = len(labels) // tasks.per_task
    count = possible if tasks.count is None else tasks.count
    if count > possible:
        raise RecipeError(f"tasks.count: {len(labels)} classes give {possible} tasks of {tasks.per_task}, got {count}. Lower it or `tasks.per_task`.")
    order = list(labels)
    if tasks.order == "shuffled":
        order = [labels[position] for position in np.argsort(_raw(seed, 0, _Stream.CLASS_ORDER, len(labels)), kind="stable")]
    chunks = [tuple(order[start : start + tasks.per_task]) for start in range(0, count * tasks.per_task, tasks.per_task)]
    names = [f"classes-{chunk[0]}-{chunk[-1]}" if tasks.order == "as_is" else f"task-{index}" for index, chunk in enumerate(chunks)]
    return tuple(ExplicitTask(name=name, classes=chunk) for name, chunk in zip(names, chunks, strict=True))


def _permutation_names(tasks: TasksSection) -> tuple[str, ...]:
    if tasks.count is None:
        raise RecipeError("tasks.count: is null; `split: permutation` has no number of tasks of its own. Set it, for example 5.")
    return tuple(f"permutation-{index}" for index in range(tasks.count))


def _check_index(index: int, count: int) -> None:
    if not 0 <= index < count:
        raise RecipeError(f"there is no task {index}: the recipe makes {count} tasks, 0 to {count - 1}. Raise `tasks.count` if the data allows it.")


def _select(split: Split, classes: Sequence[int]) -> Split:
    wanted = torch.isin(split.y, torch.tensor(classes))
    return Split(split.x[wanted], split.y[wanted])


def _relabel(split: Split, classes: Sequence[int]) -> Split:
    table = torch.full((max(classes) + 1,), -1, dtype=torch.int64)
    table[torch.tensor(classes)] = torch.arange(len(classes))
    return Split(split.x, table[split.y])


def _per_channel(data: DataSection, split: Split) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std with one value per channel; a single value counts for all."""
    repeat = split.x.shape[1] if len(data.mean) == 1 else 1
    return data.mean * repeat, data.std * repeat


def _span(labels: Sequence[int]) -> str:
    return f"{labels[0]} to {labels[-1]}" if len(labels) == labels[-1] - labels[0] + 1 else str(list(labels))


def _raw(seed: int, index: int, stream: _Stream, count: int) -> NDArray[np.uint64]:
    """`count` raw numbers of the stream for (seed, task, purpose); the purpose is the counter's highest word, so that streams never meet."""
    philox = np.random.Philox(key=np.array([seed, index], np.uint64), counter=np.array([0, 0, 0, int(stream)], np.uint64))
    return np.asarray(philox.random_raw(count), np.uint64)
