"""Several tasks of a store as one program."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tsn_toolkit.data.splits import load_task
from tsn_toolkit.errors import ExportError
from tsn_toolkit.export.c.share import OwnerView
from tsn_toolkit.extract import extract
from tsn_toolkit.files import read_json
from tsn_toolkit.joint_delivery import RUNTIME, Member, deliver_jointly
from tsn_toolkit.pipeline.by_target import packages_by_target, say_what_to_know
from tsn_toolkit.pipeline.hooks import Hooks
from tsn_toolkit.recipe.data_sections import with_data_path
from tsn_toolkit.store.store import Store
from tsn_toolkit.target import Target
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
        `tasks`, and see `packages_by_target`; of each package path, bytes, parity by task, `not_run` and `warnings`.

    Raises:
        ExportError, TargetError, GateError: see `packages_by_target`.
    """
    store = Store.open(store_path)
    tasks = [entry.name for entry in store.entries] if names == "all" else [name.strip() for name in names.split(",")]
    if len(set(tasks)) < len(tasks) or not tasks:
        raise ExportError(f"`--task {names}` must name at least one task of {store_path}, each once.")
    members, owners = [_member(store, task, data_path) for task in tasks], owner_views(store, tasks)
    subject = f"{len(tasks)} tasks"

    def make(target: Target) -> dict[str, Any]:
        hooks.say(f"{subject}: exporting for {target.name}, both gates")
        place = out / target.name
        manifest = deliver_jointly(members, owners, target, place)
        package = {
            "path": str(place),
            "model_bytes": sum(manifest["bytes_by_part"].values()),
            "parity": read_json(place / "parity.json"),
            "not_run": manifest["not_run"],
            "warnings": manifest["bench"]["warnings"],
        }
        say_what_to_know(subject, target.name, package, hooks)
        return package

    return {"tasks": tasks, **packages_by_target(subject, target_name, out, hooks, make=make, fits=lambda target: target.runtime == RUNTIME)}


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
