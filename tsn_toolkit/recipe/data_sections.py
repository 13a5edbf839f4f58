"""The data sets of a recipe, one `DataSection` each, and where their files are.

A recipe has one data set, or with `split: datasets` one per task. A store keeps no path of a machine: it names an environment variable in its place,
`TSN_DATA_PATH`, or `TSN_DATA_PATH_<position>` for the path of one entry of `tasks.datasets`.
"""

from __future__ import annotations

from typing import Any

from tsn_toolkit.recipe.environment import expand, is_machine_path, portable
from tsn_toolkit.recipe.schema import DataSection, DatasetTask, Recipe

DATA_PATH_VARIABLE = "TSN_DATA_PATH"
"""Environment variable that a store names where its recipe held a data path of one machine."""


def data_sections(recipe: Recipe) -> tuple[DataSection, ...]:
    """The data sets of a recipe: one, or one per task with `split: datasets`.

    Returns:
        Sections in which nothing is left out any more.
    """
    if recipe.tasks.split != "datasets":
        return (recipe.data,)
    return tuple(_section(recipe.data, entry) for entry in recipe.tasks.datasets)


def section_of_task(recipe: Recipe, index: int) -> DataSection:
    """The data set that task `index` is made from."""
    sections = data_sections(recipe)
    return sections[index] if recipe.tasks.split == "datasets" else sections[0]


def with_data_path(recipe: Recipe, index: int, path: str) -> Recipe:
    """The recipe with another place of the data of task `index`."""
    if recipe.tasks.split != "datasets":
        return recipe.model_copy(update={"data": recipe.data.model_copy(update={"path": path})})
    entries = list(recipe.tasks.datasets)
    entries[index] = entries[index].model_copy(update={"path": path})
    return recipe.model_copy(update={"tasks": recipe.tasks.model_copy(update={"datasets": tuple(entries)})})


def make_data_portable_(record: dict[str, Any]) -> None:
    """Puts variables where a resolved recipe holds data paths of one machine, in place."""
    record["data"]["path"] = portable(record["data"]["path"], DATA_PATH_VARIABLE)
    for position, entry in enumerate(record["tasks"].get("datasets", ())):
        entry["path"] = portable(entry["path"], f"{DATA_PATH_VARIABLE}_{position}")


def data_path_variables(recipe: Recipe) -> dict[str, str]:
    """The variables that a store of this recipe names, with the paths that they stand for here."""
    paths = {DATA_PATH_VARIABLE: recipe.data.path}
    paths |= {f"{DATA_PATH_VARIABLE}_{position}": entry.path for position, entry in enumerate(recipe.tasks.datasets)}
    return {name: expand(path) for name, path in paths.items() if path is not None and is_machine_path(path)}


def _section(common: DataSection, entry: DatasetTask) -> DataSection:
    given = {key: value for key in DatasetTask.model_fields if key in DataSection.model_fields and (value := getattr(entry, key)) is not None}
    if entry.source is not None and entry.source != common.source:
        given = {"path": None, "options": {}, "test_split": None, "class_names": None, **given}
    return common.model_copy(update=given)
