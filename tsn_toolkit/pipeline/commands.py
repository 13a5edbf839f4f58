"""What the command line asks of a store, a package or a model outside a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from tsn_toolkit.bench.latency import bench_package
from tsn_toolkit.contracts import TaskData
from tsn_toolkit.data.splits import load_task
from tsn_toolkit.delivery import bench_beside_dense, deliver
from tsn_toolkit.errors import RunError
from tsn_toolkit.export.package_folder import checked_manifest, is_package, target_of
from tsn_toolkit.extract import extract
from tsn_toolkit.files import folder_bytes
from tsn_toolkit.model_loading import set_head
from tsn_toolkit.pipeline.by_target import packages_by_target, say_what_to_know
from tsn_toolkit.pipeline.founding import shop_of_recipe, targets_of
from tsn_toolkit.pipeline.hooks import Hooks
from tsn_toolkit.pipeline.measuring import bench_settings
from tsn_toolkit.pipeline.planning import plan_of_recipe
from tsn_toolkit.plan.file import plan_text_of
from tsn_toolkit.recipe.data_sections import with_data_path
from tsn_toolkit.recipe.schema import Recipe
from tsn_toolkit.revisions import answer
from tsn_toolkit.run_folder import RunFolder
from tsn_toolkit.store.integrity import verify_store
from tsn_toolkit.store.packing import pack_store, unpack_store
from tsn_toolkit.store.retire import retire_task
from tsn_toolkit.store.store import Store
from tsn_toolkit.target import Target
from tsn_toolkit.verify.measure import measure_store
from tsn_toolkit.verify.package_check import verify_package
from tsn_toolkit.workshop import Workshop, recipe_of_task, workshop_of_store


def export_from_store(store_path: Path, task: str, target_name: str, out: Path, data_path: Path | None, hooks: Hooks) -> dict[str, Any]:
    """Packages of one committed task.

    Args:
        store_path: the store.
        task: name of the task.
        target_name: a target, or `all` for every one that can take the task.
        out: a folder per target is made in it.
        data_path: stands in for `data.path` of the store's recipe.

    Returns:
        `task`, and see `packages_by_target`; of each package what `export_packages` gives.

    Raises:
        ExportError, TargetError, GateError: see `packages_by_target`.
    """
    store = Store.open(store_path)
    recipe, index = recipe_of_task(store, task)
    recipe = _with_data(recipe, index, data_path)
    shop, data = workshop_of_store(store), load_task(recipe, index)

    def make(target: Target) -> dict[str, Any]:
        return export_packages(store, shop, data, recipe, [target], out, hooks)[target.name]

    return {"task": task, **packages_by_target(f"task `{task}`", target_name, out, hooks, make=make, fits=lambda target: True)}


def export_packages(
    store: Store, shop: Workshop, data: TaskData, recipe: Recipe, targets: list[Target], out: Path, hooks: Hooks
) -> dict[str, dict[str, Any]]:
    """One package per target; target name -> path, what was measured, and what a user should read: `not_run`, `warnings`.

    Latency stands beside a dense network of the pristine size.
    """
    answers = answer(store, data.name)
    weights, logits = answers.weights, answers.as_logits(data)
    extracted = extract(shop.factory, shop.graph, weights)
    dense = _dense(shop, data)
    packages = {}
    for target in targets:
        hooks.say(f"task `{data.name}`: exporting for {target.name}, both gates, benchmark")
        place, settings = out / target.name, bench_settings(recipe)
        done = deliver(
            extracted,
            weights.ranges,
            target,
            place,
            data=logits,
            dense=dense,
            bench=settings,
            dense_is_trained=False,
            unit_masks=weights.unit_masks,
            recipe=store.recipe(data.name),
        )
        packages[target.name] = {
            "path": str(place),
            "model_bytes": done.model_bytes,
            "parity": done.parity,
            "latency_ms": done.latency_ms,
            "vendor_int8": done.vendor_int8,
            "not_run": done.parity["not_run"],
            "warnings": list(done.warnings),
        }
        say_what_to_know(f"task `{data.name}`", target.name, packages[target.name], hooks)
    return packages


def verify_path(path: Path, *, measure: bool) -> dict[str, Any]:
    """Verifies a package or a store; see `tsn verify`. A package that does not answer as recorded has `passed` false.

    Raises:
        RunError: `measure` is asked of a package.
        GateError: the package is not what its manifest says, is damaged, or does not run.
        TargetError: its runtime is missing or too old.
        StoreError: a part of the store is damaged.
    """
    if is_package(path):
        if measure:
            raise RunError(f"{path} is a package; --measure is for a store. Leave it out.")
        return verify_package(path).record()
    if measure:
        return measure_store(path)
    hashes = verify_store(Store.open(path))
    return {"tasks": [{"name": name, "codes_hash": codes_hash} for name, codes_hash in hashes.items()], "total_bytes": folder_bytes(path)}


def retire_from_store(path: Path, task: str) -> dict[str, Any]:
    """Retires a task; see `tsn retire`. `freed_bytes` are those by which the folder is smaller; `run` is the folder of the run that measured the
    task, None where the store stands alone or the task was added to it later.
    """
    before = folder_bytes(path)
    retire_task(path, task)
    total_bytes = folder_bytes(path)
    run = RunFolder(path.absolute().parent)
    measured = run.recipe.is_file() and run.store == path.absolute() and run.record(task).is_file()
    return {"task": task, "freed_bytes": before - total_bytes, "total_bytes": total_bytes, "run": str(run.path) if measured else None}


def pack_to_file(path: Path, file: Path, tasks: tuple[str, ...]) -> dict[str, Any]:
    """Packs a store into one file; see `tsn pack`. `word_bytes` are those of the words, `total_bytes` those of the file."""
    image = pack_store(Store.open(path), file, tasks or None)
    layers = image.describe()["layers"]
    word_bytes = sum(layer["bytes"] for layer in layers)
    return {"file": str(file), "tasks": [entry.name for entry in image.entries], "word_bytes": word_bytes, "total_bytes": file.stat().st_size}


def unpack_to_folder(file: Path, folder: Path) -> dict[str, Any]:
    """Unpacks a packed store; see `tsn unpack`."""
    store = unpack_store(file, folder)
    return {"store": str(folder), "tasks": [entry.name for entry in store.entries], "total_bytes": folder_bytes(folder)}


def bench_path(package: Path, store_path: Path | None, data_path: Path | None) -> dict[str, Any]:
    """Times a package in its own runtime; beside the dense network, in float32 and in the vendor's own int8, where a store says which network.

    Args:
        package: the package.
        store_path: the store that the task is in, or None.
        data_path: stands in for `data.path` of the store's recipe.

    Raises:
        GateError: the package is damaged, or does not run.
        TargetError: its runtime is missing or too old.
    """
    if store_path is None:
        return bench_package(package)
    manifest = checked_manifest(package)
    store = Store.open(store_path)
    recipe, index = recipe_of_task(store, manifest["task"])
    shop, data = workshop_of_store(store), load_task(_with_data(recipe, index, data_path), index)
    target = target_of(package, manifest)
    return bench_beside_dense(package, _dense(shop, data), data, target, bench_settings(recipe), dense_is_trained=False)


def plan_text(recipe: Recipe, say: Callable[[str], None]) -> str:
    """The plan that a run of the recipe would make, as the text of its file."""
    made = plan_of_recipe(recipe, shop_of_recipe(recipe).graph, targets_of(recipe), say)
    return plan_text_of(made.plan, made.measured)


def _with_data(recipe: Recipe, index: int, data_path: Path | None) -> Recipe:
    """The recipe with another place of the data of task `index`; None leaves it as it is."""
    return recipe if data_path is None else with_data_path(recipe, index, str(data_path))


def _dense(shop: Workshop, data: TaskData) -> nn.Module:
    """A network of the pristine size with the task's outputs, not trained: it stands for latency alone."""
    return set_head(shop.factory(), shop.graph.head, len(data.classes)).eval()
