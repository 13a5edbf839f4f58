"""Rules of the sections `data` and `tasks` that no single field can hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tsn_toolkit.recipe.findings import Finding, check_factory, check_path
from tsn_toolkit.recipe.schema import DataSection, DatasetTask, ExplicitTask, TasksSection
from tsn_toolkit.recipe.yaml_document import KeyPath
from tsn_toolkit.vocabulary import TRUNK

LISTS = {"explicit": "explicit", "rotation": "angles", "datasets": "datasets"}
"""Split -> the key of `tasks` that lists its tasks."""


def check_data(data: DataSection) -> Iterator[Finding]:
    """One data set: paths, factories, and as many means as deviations."""
    yield from _check_places(("data",), data)
    if len(data.mean) != len(data.std):
        yield ("data", "std"), f"needs one value per value of `data.mean`, got {len(data.std)} for {len(data.mean)}. Give both or neither."


def check_tasks(tasks: TasksSection) -> Iterator[Finding]:
    """The keys of the split that is chosen, and only those; names and classes that do not collide."""
    if tasks.split == "permutation" and tasks.count is None:
        yield ("tasks", "count"), "is null; `split: permutation` has no number of tasks of its own. Set it, for example 5."
    for split, key in LISTS.items():
        given = len(getattr(tasks, key))
        if (tasks.split == split) != bool(given):
            text = f"lists {given} tasks with `split: {tasks.split}`; `split: {split}`, and only it, needs the list. Change one."
            yield ("tasks", key), text
        elif given and tasks.count is not None and tasks.count > given:
            yield ("tasks", "count"), f"is {tasks.count}, but `tasks.{key}` lists {given} tasks. Lower it or set it to null."
    if tasks.groups_per_task != 1 and tasks.split not in ("superclasses", "subjects"):
        text = f"is {tasks.groups_per_task}, but `split: {tasks.split}` deals out no superclasses or subjects. Remove it."
        yield ("tasks", "groups_per_task"), text
    if tasks.per_task != TasksSection().per_task and tasks.split != "classes":
        yield ("tasks", "per_task"), f"is {tasks.per_task}, but `split: {tasks.split}` deals out no classes. Remove it."
    if tasks.order != "as_is" and tasks.split not in ("classes", "superclasses", "subjects"):
        yield ("tasks", "order"), f"is {tasks.order}, but `split: {tasks.split}` deals out nothing that has an order. Remove it."
    yield from _check_names("explicit", tasks.explicit)
    yield from _check_names("datasets", tasks.datasets)
    owners: dict[int, str] = {}
    for position, task in enumerate(tasks.explicit):
        for label in task.classes:
            if label in owners:
                text = f"class {label} is already in task {owners[label]!r}; a class belongs to one task. Remove it from one."
                yield ("tasks", "explicit", position, "classes"), text
            owners[label] = task.name
    for position, entry in enumerate(tasks.datasets):
        yield from _check_places(("tasks", "datasets", position), entry)


def check_datasets(sections: Mapping[str, Any]) -> Iterator[Finding]:
    """What a recipe of several data sets needs, and what has no meaning there."""
    tasks = sections.get("tasks")
    if tasks is None or tasks.split != "datasets":
        return
    data, reference = sections.get("data"), sections.get("reference")
    if data is not None and data.input_shape is None:
        yield ("data", "input_shape"), "is null; `split: datasets` needs the one shape that all data sets are brought to, for example [1, 28, 28]."
    if data is not None:
        for position, entry in enumerate(tasks.datasets):
            mean, std = (data.mean if entry.mean is None else entry.mean), (data.std if entry.std is None else entry.std)
            if len(mean) != len(std):
                text = f"needs one value per value of the mean, got {len(std)} for {len(mean)}. Give both or neither."
                yield ("tasks", "datasets", position, "std"), text
    if reference is not None and reference.dense == "checkpoint":
        yield ("reference", "dense"), "is 'checkpoint', but one checkpoint has no logits for the classes of several data sets. Set it to separate."


def _check_names(key: str, tasks: Sequence[ExplicitTask | DatasetTask]) -> Iterator[Finding]:
    taken: set[str] = set()
    for position, task in enumerate(tasks):
        if task.name in taken or task.name == TRUNK:
            text = f"is taken, got {task.name!r}; each task has a name of its own, other than {TRUNK!r}. Choose another."
            yield ("tasks", key, position, "name"), text
        taken.add(task.name)


def _check_places(key: KeyPath, data: DataSection | DatasetTask) -> Iterator[Finding]:
    if data.path is not None:
        yield from check_path((*key, "path"), data.path)
    if data.options is not None and isinstance(data.options.get("factory"), str):
        yield from check_factory((*key, "options", "factory"), data.options["factory"])
