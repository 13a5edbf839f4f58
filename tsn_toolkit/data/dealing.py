"""Which classes, superclasses or subjects each task gets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from tsn_toolkit.contracts import Split
from tsn_toolkit.data.streams import Stream, raw_numbers
from tsn_toolkit.errors import RecipeError
from tsn_toolkit.recipe.schema import TasksSection

CLASSES_PER_SPACE = 10_000
"""With `split: datasets`, label l of the i-th label space is class i * 10,000 + l."""


@dataclass(frozen=True)
class Share:
    """What one task gets of the data.

    Attributes:
        name: of the task.
        classes: the data's own class index of each label.
        groups: whose examples; None: everybody's.
    """

    name: str
    classes: tuple[int, ...]
    groups: tuple[int, ...] | None = None


def deal_classes(tasks: TasksSection, labels: Sequence[int], seed: int) -> tuple[Share, ...]:
    """The tasks of `split: classes` and `split: explicit`.

    Args:
        tasks: of the recipe.
        labels: classes that the data holds, sorted.
        seed: of the recipe.

    Raises:
        RecipeError: the tasks do not fit the classes of the data.
    """
    if tasks.split == "explicit":
        for position, task in enumerate(tasks.explicit):
            unknown = sorted(set(task.classes) - set(labels))
            if unknown:
                raise RecipeError(f"tasks.explicit.{position}.classes: the data has no class {unknown[0]}, only {_span(labels)}. Correct it.")
        return tuple(Share(task.name, task.classes) for task in tasks.explicit[: tasks.count])
    chunks = _chunks(tasks, labels, tasks.per_task, seed, Stream.CLASS_ORDER, ("per_task", "classes"))
    return tuple(Share(_name("classes", chunk, index, tasks), chunk) for index, chunk in enumerate(chunks))


def deal_groups(tasks: TasksSection, data: Split, seed: int) -> tuple[Share, ...]:
    """The tasks of `split: superclasses` (classes of some groups) and `split: subjects` (all classes, examples of some groups).

    Args:
        tasks: of the recipe.
        data: the whole training part.
        seed: of the recipe.

    Raises:
        RecipeError: the source tells no groups, the tasks do not fit them, or a class lies in several superclasses.
    """
    if data.group is None:
        raise RecipeError(
            f"tasks.split: is {tasks.split}, but the data says of no example which it belongs to. Subjects come from source npz with the option "
            "`subject`, superclasses from source cifar-binary on CIFAR-100 with fine labels."
        )
    groups = [int(group) for group in torch.unique(data.group)]
    chunks = _chunks(tasks, groups, tasks.groups_per_task, seed, Stream.GROUP_ORDER, ("groups_per_task", tasks.split))
    if tasks.split == "subjects":
        every = tuple(int(label) for label in torch.unique(data.y))
        return tuple(Share(_name("subjects", chunk, index, tasks), every, chunk) for index, chunk in enumerate(chunks))
    classes = _classes_of(data, data.group)
    shares = [tuple(label for group in chunk for label in classes[group]) for chunk in chunks]
    return tuple(Share(_name("superclasses", chunk, index, tasks), shares[index]) for index, chunk in enumerate(chunks))


def first_class(tasks: TasksSection, index: int) -> int:
    """With `split: datasets`: class index of label 0 of task `index`. It depends on no later task."""
    spaces = list(dict.fromkeys(_label_space(tasks, position) for position in range(index + 1)))
    return CLASSES_PER_SPACE * spaces.index(_label_space(tasks, index))


def _label_space(tasks: TasksSection, position: int) -> tuple[str, bool]:
    """The space that an entry names, or one of its own, which no other entry can name."""
    entry = tasks.datasets[position]
    return (entry.name, False) if entry.label_space is None else (entry.label_space, True)


def _classes_of(data: Split, group: torch.Tensor) -> dict[int, tuple[int, ...]]:
    """Group -> its classes, sorted; a class lies in one group."""
    pairs = torch.unique(torch.stack([data.y, group], dim=1), dim=0).tolist()  # [class, group], sorted by class
    owner: dict[int, int] = {}
    for label, number in pairs:
        if label in owner:
            where = f"class {label} lies in the groups {owner[label]} and {number}"
            raise RecipeError(f"tasks.split: is superclasses, but {where} of the data. Set it to subjects.")
        owner[label] = number
    return {number: tuple(label for label in owner if owner[label] == number) for number in set(owner.values())}


def _chunks(tasks: TasksSection, items: Sequence[int], size: int, seed: int, stream: Stream, words: tuple[str, str]) -> list[tuple[int, ...]]:
    """`items` in pieces of `size`, in the recipe's order; `words` are the key of the size and what the items are."""
    key, what = words
    if len(items) % size:
        divisors = [number for number in range(2 if key == "per_task" else 1, len(items) + 1) if len(items) % number == 0]
        if not divisors:
            raise RecipeError(f"tasks.{key}: a task needs 2 {what} or more, the data has {len(items)}. Name other data.")
        raise RecipeError(f"tasks.{key}: must divide the {len(items)} {what} of the data, got {size}; {divisors} do. Change it.")
    possible = len(items) // size
    count = possible if tasks.count is None else tasks.count
    if count > possible:
        raise RecipeError(f"tasks.count: {len(items)} {what} give {possible} tasks of {size}, got {count}. Lower it or `tasks.{key}`.")
    order = list(items)
    if tasks.order == "shuffled":
        order = [items[position] for position in np.argsort(raw_numbers(seed, 0, stream, len(items)), kind="stable")]
    return [tuple(order[start : start + size]) for start in range(0, count * size, size)]


def _name(word: str, chunk: tuple[int, ...], index: int, tasks: TasksSection) -> str:
    if tasks.order == "shuffled":
        return f"task-{index}"
    return f"{word}-{chunk[0]}-{chunk[-1]}" if len(chunk) > 1 else f"{word}-{chunk[0]}"


def _span(labels: Sequence[int]) -> str:
    return f"{labels[0]} to {labels[-1]}" if len(labels) == labels[-1] - labels[0] + 1 else str(list(labels))
