"""Several tasks of a store as one program."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tsn_toolkit.data.splits import load_task
from tsn_toolkit.errors import ExportError, TargetError
from tsn_toolkit.export.c.share import OwnerView
from tsn_toolkit.extract import extract
from tsn_toolkit.files import read_json
from tsn_toolkit.joint_delivery import RUNTIME, Member, deliver_jointly
from tsn_toolkit.pipeline.hooks import Hooks
from tsn_toolkit.recipe.data_sections import with_data_path
from tsn_toolkit.store.store import Store
from tsn_toolkit.target import list_targets, load_target
from tsn_toolkit.vocabulary import TRUNK
from tsn_toolkit.workshop import recipe_of_task, workshop_of_store


def export_jointly(store_path: Path, names: str, target_name: str, out: Path, data_path: Path | None, hooks: Hooks) -> dict[str, Any]:
    """One package of several tasks per target.

    Args:
        store_path: the store.
        names: of the tasks, separated by commas, or `all`.
        target_name: a target, or `all` for every one that several tasks fit into.
        out: a folder per target is made in it.
        data_path: stands in for `data.path` of the store's recipe.

    Returns:
        `tasks`; `packages`: target -> path, bytes and parity by task; `skipped`: target -> why it cannot take them, only ever filled for `all`.

    Raises:
        ExportError, TargetError: the tasks have no form for the target, or a tool is missing; for `all`, when that holds for every target.
        GateError: a package does not answer like the store.
    """
    store = Store.open(store_path)
    tasks = [entry.name for entry in store.entries] if names == "all" else [name.strip() for name in names.split(",")]
    if len(set(tasks)) < len(tasks) or not tasks:
        raise ExportError(f"`--task {names}` must name at least one task of {store_path}, each once.")
    members, owners = [_member(store, task, data_path) for task in tasks], owner_views(store, tasks)
    wanted = [target_name] if target_name != "all" else [name for name in list_targets() if load_target(name).runtime == RUNTIME]
    packages: dict[str, dict[str, Any]] = {}
    skipped = {}
    for name in wanted:
        target = load_target(name)
        hooks.say(f"{len(tasks)} tasks: exporting for {target.name}, both gates")
        try:
            manifest = deliver_jointly(members, owners, target, out / target.name)
        except (ExportError, TargetError) as error:
            if target_name != "all":
                raise
            skipped[name] = str(error)
            hooks.say(f"no package for {name}: {error}")
            continue
        packages[target.name] = {
            "path": str(out / target.name),
            "model_bytes": sum(manifest["bytes_by_part"].values()),
            "parity": read_json(out / target.name / "parity.json"),
        }
    if not packages:
        raise ExportError("These tasks have a common package for no target:\n" + "\n".join(f"- {name}: {why}" for name, why in skipped.items()))
    return {"tasks": tasks, "packages": packages, "skipped": skipped}


def owner_views(store: Store, tasks: list[str]) -> dict[str, OwnerView]:
    """What the trunk and every task of the lineages of `tasks` hand on, parents first."""
    lineages = [store.chain(task) for task in tasks]
    wanted = {owner for lineage in lineages for owner in lineage}
    ordered = [TRUNK, *(entry.name for entry in store.entries if entry.name in wanted)]
    return {owner: OwnerView("" if owner == TRUNK else store.entry(owner).parent, store.frozen_view(owner)) for owner in ordered}


def _member(store: Store, task: str, data_path: Path | None) -> Member:
    recipe, index = recipe_of_task(store, task)
    if data_path is not None:
        recipe = with_data_path(recipe, index, str(data_path))
    shop, weights = workshop_of_store(store), store.weights(task)
    return Member(extract(shop.factory, shop.graph, weights), weights.ranges, load_task(recipe, index), store.recipe(task))
