"""Tasks out of data, each with train, validation and test.

Everything random follows from (recipe seed, index of the task), so that task k is the same whichever other tasks there are.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tsn_toolkit.contracts import Split, TaskData
from tsn_toolkit.data.dealing import CLASSES_PER_SPACE, Share, deal_classes, deal_groups, first_class
from tsn_toolkit.data.held_out import split_validation
from tsn_toolkit.data.loading import class_labels, load_data
from tsn_toolkit.data.transforms import permute_pixels, rotate
from tsn_toolkit.errors import DataError, RecipeError
from tsn_toolkit.recipe.data_sections import data_sections, section_of_task
from tsn_toolkit.recipe.schema import DataSection, Recipe, TasksSection

DEALT = ("classes", "superclasses", "subjects")
"""Splits whose tasks follow from what the data holds."""


def task_names(recipe: Recipe) -> tuple[str, ...]:
    """Names of the recipe's tasks, in order.

    Raises:
        RecipeError: the tasks do not fit the data.
        DataError: the data cannot be read (it is read only where the tasks follow from what it holds).
    """
    tasks = recipe.tasks
    if tasks.split in DEALT:
        train, _ = load_data(recipe.data)
        return tuple(share.name for share in _shares(tasks, train, recipe.seed))
    if tasks.split == "explicit":
        return tuple(task.name for task in tasks.explicit[: tasks.count])
    if tasks.split == "datasets":
        return tuple(entry.name for entry in tasks.datasets[: tasks.count])
    return tuple(f"{tasks.split}-{index}" for index in range(_count(tasks)))


def load_task(recipe: Recipe, index: int) -> TaskData:
    """The data of one task.

    Args:
        recipe: the recipe.
        index: 0-based position of the task.

    Returns:
        Labels 0..n-1 in the order of `classes`; validation is carved from train, stratified by class.

    Raises:
        RecipeError: there is no task `index`, or the tasks do not fit the data.
        DataError: the data cannot be read, or a class has too few examples.
    """
    if recipe.tasks.split not in DEALT:
        _check_index(index, len(task_names(recipe)))
    section = section_of_task(recipe, index)
    train, test = load_data(section)
    share, offset = _share(recipe, index, train), 0
    if recipe.tasks.split == "datasets":
        offset = _offset(recipe.tasks, index, share.classes)
    train, test = (_view(recipe, index, _select(part, share)) for part in (train, test))
    _check_task(share, train, test)
    rest, validation = split_validation(train, section.validation, recipe.seed, index)
    mean, std = _per_channel(section, train)
    classes = tuple(offset + label for label in share.classes)
    names = {offset + label: name for label, name in enumerate(test.reading.class_names)}
    parts = [_relabel(part, share.classes) for part in (rest, validation, test)]
    return TaskData(share.name, classes, parts[0], parts[1], parts[2], mean, std, names)


def make_tasks(recipe: Recipe) -> tuple[TaskData, ...]:
    """All tasks at once; `load_task` keeps only one in memory.

    Raises:
        RecipeError, DataError: as `load_task`.
    """
    return tuple(load_task(recipe, index) for index in range(len(task_names(recipe))))


def whole_data(recipe: Recipe) -> DataSection:
    """The data set on which a trained checkpoint is checked and a plan is measured: the only one, or the first task's of `split: datasets`."""
    return data_sections(recipe)[0]


def _share(recipe: Recipe, index: int, train: Split) -> Share:
    if recipe.tasks.split in (*DEALT, "explicit"):
        shares = _shares(recipe.tasks, train, recipe.seed)
        _check_index(index, len(shares))
        return shares[index]
    return Share(task_names(recipe)[index], class_labels(train))


def _shares(tasks: TasksSection, train: Split, seed: int) -> tuple[Share, ...]:
    if tasks.split in ("superclasses", "subjects"):
        return deal_groups(tasks, train, seed)
    return deal_classes(tasks, class_labels(train), seed)


def _count(tasks: TasksSection) -> int:
    """Tasks of `split: permutation` and `split: rotation`."""
    if tasks.split == "rotation":
        return len(tasks.angles[: tasks.count])
    if tasks.count is None:
        raise RecipeError("tasks.count: is null; `split: permutation` has no number of tasks of its own. Set it, for example 5.")
    return tasks.count


def _offset(tasks: TasksSection, index: int, labels: Sequence[int]) -> int:
    """Class index of label 0 of the task's own data set."""
    if labels[-1] >= CLASSES_PER_SPACE:
        name = tasks.datasets[index].name
        raise DataError(f"data set {name!r} has label {labels[-1]}; with `split: datasets` labels are below {CLASSES_PER_SPACE}. Number them anew.")
    return first_class(tasks, index)


def _view(recipe: Recipe, index: int, split: Split) -> Split:
    """The examples as the task sees them."""
    if recipe.tasks.split == "permutation":
        return permute_pixels(split, recipe.seed, index)
    return rotate(split, recipe.tasks.angles[index]) if recipe.tasks.split == "rotation" else split


def _check_index(index: int, count: int) -> None:
    if not 0 <= index < count:
        raise RecipeError(f"there is no task {index}: the recipe makes {count} tasks, 0 to {count - 1}. Raise `tasks.count` if the data allows it.")


def _check_task(share: Share, train: Split, test: Split) -> None:
    """Subjects need not have done everything, but what is tested must have been trained, and something must be tested."""
    if share.groups is None:
        return
    for part, split in (("train", train), ("test", test)):
        absent = sorted(set(share.groups) - set(() if split.group is None else split.group.tolist()))
        if absent:
            raise DataError(f"task {share.name!r}: subject {absent[0]} has no example in {part}. Raise `data.{part}_limit` or take other subjects.")
    unseen = sorted(set(class_labels(test)) - set(class_labels(train)))
    if unseen:
        raise DataError(f"task {share.name!r}: class {unseen[0]} occurs in its test examples but in none of training. Take more subjects per task.")


def _select(split: Split, share: Share) -> Split:
    wanted = torch.isin(split.y, torch.tensor(share.classes))
    if share.groups is not None and split.group is not None:
        wanted &= torch.isin(split.group, torch.tensor(share.groups))
    return split if bool(wanted.all()) else split.take(wanted)


def _relabel(split: Split, classes: Sequence[int]) -> Split:
    ascending, position = torch.tensor(classes).sort()  # no table over all labels: one of them may be a number of many digits
    return Split(split.x, position[torch.searchsorted(ascending, split.y)], reading=split.reading)


def _per_channel(data: DataSection, split: Split) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std with one value per channel; a single value counts for all."""
    repeat = split.x.shape[1] if len(data.mean) == 1 else 1
    return data.mean * repeat, data.std * repeat
