"""All stages, in order: recipe -> graph -> plan -> learn -> commit -> extract -> export -> verify -> report.

The only place that knows every stage. Each stage writes its result before the next starts, so a killed run resumes where it stood: tasks that are
committed stay, a task that was not is learned again from the committed store alone and gives the same bytes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tsn_toolkit.data.splits import load_task, task_names
from tsn_toolkit.errors import RunError
from tsn_toolkit.export.rehearsal import check_exportable
from tsn_toolkit.pipeline.commands import export_packages
from tsn_toolkit.pipeline.founding import check_same_network, found_store, strategy_config, targets_of
from tsn_toolkit.pipeline.hooks import Hooks, logged
from tsn_toolkit.pipeline.learning import learn_and_commit
from tsn_toolkit.pipeline.measuring import measure_task
from tsn_toolkit.pipeline.summary import summarise
from tsn_toolkit.recipe.data_sections import data_path_variables
from tsn_toolkit.recipe.loading import load_recipe, resolve_recipe
from tsn_toolkit.recipe.schema import Recipe
from tsn_toolkit.recipe.yaml_document import dump_yaml
from tsn_toolkit.run_folder import RunFolder, create_run_folder, open_run_folder
from tsn_toolkit.store.manifest import marginal_bytes
from tsn_toolkit.store.store import Store
from tsn_toolkit.target import Target
from tsn_toolkit.workshop import workshop_of_store


def run(recipe: Recipe, out: Path, hooks: Hooks) -> dict[str, Any]:
    """A new run in a new folder; returns the summary."""
    targets = targets_of(recipe)
    folder = create_run_folder(out, dump_yaml(resolve_recipe(recipe)))
    return _continue(recipe, folder, targets, hooks)


def resume(out: Path, hooks: Hooks) -> dict[str, Any]:
    """Continues a run that was stopped, from its own recipe; returns the summary."""
    folder = open_run_folder(out)
    recipe = load_recipe(folder.recipe, strategy_config=strategy_config)
    return _continue(recipe, folder, targets_of(recipe), hooks)


def _continue(recipe: Recipe, folder: RunFolder, targets: list[Target], hooks: Hooks) -> dict[str, Any]:
    hooks = logged(folder, hooks)
    try:
        return _all_stages(recipe, folder, targets, hooks)
    except (KeyboardInterrupt, SystemExit):
        hooks.say(f"stopped; `tsn resume {folder.path}` continues")
        raise


def _all_stages(recipe: Recipe, folder: RunFolder, targets: list[Target], hooks: Hooks) -> dict[str, Any]:
    if not folder.store.joinpath("manifest.json").is_file():
        found_store(recipe, folder, targets, hooks)
    store = Store.open(folder.store)
    shop = workshop_of_store(store)
    check_same_network(recipe, store, shop)
    names = task_names(recipe)
    for index, name in enumerate(names):
        committed = name in {entry.name for entry in store.entries}
        if not committed and folder.record(name).is_file():
            hooks.say(f"task {index + 1}/{len(names)} `{name}` was retired and stays so")
            continue
        data = load_task(recipe, index)
        if not committed:
            hooks.say(f"task {index + 1}/{len(names)} `{name}`: learning")
            learn_and_commit(recipe, store, shop, data, index, hooks)
            store = Store.open(folder.store)
        if not folder.record(name).is_file():
            measure_task(recipe, folder, store, shop, data, index, targets, hooks)
    return summarise(recipe, folder, store, shop, names, hooks)


def add_task(store_path: Path, recipe: Recipe, out: Path | None, hooks: Hooks) -> dict[str, Any]:
    """Learns the first task of `recipe` that the store does not hold and commits it; earlier parts are not touched.

    Args:
        store_path: an existing store.
        recipe: names the task's data and how to learn it.
        out: where exports and measurements go; None: only the store grows.
    """
    store = Store.open(store_path)
    shop = workshop_of_store(store)
    check_same_network(recipe, store, shop)
    held = {entry.name for entry in store.entries}
    index = next((i for i, name in enumerate(task_names(recipe)) if name not in held), None)
    if index is None:
        raise RunError(f"{store_path} already holds every task of recipe `{recipe.name}` ({', '.join(sorted(held))}). Name a recipe with a new task.")
    data = load_task(recipe, index)
    targets = [] if out is None else targets_of(recipe)
    check_exportable(shop.factory(), shop.graph, targets)
    hooks.say(f"task `{data.name}`: learning")
    learn_and_commit(recipe, store, shop, data, index, hooks)
    store = Store.open(store_path)
    result: dict[str, Any] = {"store": str(store_path), "task": data.name, "marginal_bytes": marginal_bytes(store.entries)[data.name]}
    result["measured"] = hooks.measure(store_path, data_paths=data_path_variables(recipe))["tasks"]
    if out is not None:
        result["packages"] = export_packages(store, shop, data, recipe, targets, out / data.name, hooks)
    return result
