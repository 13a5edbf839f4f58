"""`summary.json` and `report.html` of a run."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import itertools
import platform
from pathlib import Path
from typing import Any

from tsn_toolkit import __version__, metrics
from tsn_toolkit.bench.denominators import measure_denominators
from tsn_toolkit.data.splits import task_names
from tsn_toolkit.errors import RunError
from tsn_toolkit.files import folder_bytes, write_json, write_text
from tsn_toolkit.pipeline.founding import strategy_config
from tsn_toolkit.pipeline.hooks import Hooks
from tsn_toolkit.plan.file import plan_from_dict
from tsn_toolkit.recipe.loading import load_recipe
from tsn_toolkit.recipe.schema import Recipe
from tsn_toolkit.report.page import render_report
from tsn_toolkit.revisions import superseded_bytes
from tsn_toolkit.run_folder import RunFolder, open_run_folder
from tsn_toolkit.store.inspect import inspect_store
from tsn_toolkit.store.store import Store
from tsn_toolkit.vocabulary import TRUNK
from tsn_toolkit.workshop import Workshop, workshop_of_store


def write_report(path: Path, hooks: Hooks) -> Path:
    """Writes `report.html` of a finished run again, and `summary.json` where a task was retired since; returns the page's path."""
    folder = open_run_folder(path)
    if not folder.summary.is_file():
        raise RunError(f"{path} is not finished: {folder.summary.name} is missing. Continue it with `tsn resume {path}`.")
    recipe = load_recipe(folder.recipe, strategy_config=strategy_config)
    store, summary = Store.open(folder.store), folder.read_summary()
    names = tuple(task["name"] for task in summary["tasks"])
    if set(names) <= {entry.name for entry in store.entries}:
        _write_page(recipe, folder, store, summary)
    else:  # a task was retired
        summarise(recipe, folder, store, workshop_of_store(store), task_names(recipe), hooks)
    return folder.report


def summarise(recipe: Recipe, folder: RunFolder, store: Store, shop: Workshop, names: tuple[str, ...], hooks: Hooks) -> dict[str, Any]:
    """`summary.json` and `report.html` of the tasks that the store holds, from their records; `names` are all tasks of the recipe.

    Raises:
        RunError: every task was retired.
    """
    held = {entry.name for entry in store.entries}
    living = [index for index, name in enumerate(names) if name in held]
    if not living:
        raise RunError(f"{folder.path}: every task of its store was retired, so there is nothing to report. Begin another run to learn them anew.")
    records = [folder.read_record(names[index]) for index in living]
    matrix = [[record["R_row"][i] if i < len(record["R_row"]) else None for i in living] for record in records]
    numbers = dataclasses.asdict(metrics.continual_metrics(matrix, _with_unseen_(matrix, records)))
    plan = plan_from_dict(store.recipe(TRUNK)["resolved_plan"])
    shown = ("name", "accuracy", "bytes", "macs", "latency_ms", "parent_choice")
    summary = {
        "name": recipe.name,
        "dense_reference": DENSE_MEANS[recipe.reference.dense],
        "tasks": [{key: record[key] for key in shown if key in record} for record in records],
        "R": matrix,
        **numbers,
        "task_inference": _task_inference(recipe, records),
        "store_bytes": folder_bytes(folder.store),
        "superseded_bytes": superseded_bytes(store),
        "denominators": measure_denominators(shop.factory, shop.graph, store, granularity={layer.name: layer.granularity for layer in plan.layers}),
        "seed": recipe.seed,
        "versions": versions(),
        "warnings": [warning for record in records for warning in record["warnings"]],
    }
    write_json(folder.summary, summary)
    _write_page(recipe, folder, store, summary)
    hooks.say(f"report: {folder.report}")
    return summary


def _with_unseen_(matrix: list[list[float | None]], records: list[dict[str, Any]]) -> list[float] | None:
    """Writes R[t, t+1] into the matrix where it was measured; b, or None where a task was not measured before it was learned."""
    baseline = [0.0]  # of the first task, before which there is nothing to transfer
    for position, (before, after) in enumerate(itertools.pairwise(records)):
        unseen = before.get("unseen")
        if unseen is None or unseen["name"] != after["name"]:
            return None
        matrix[position][position + 1] = unseen["accuracy"]
        baseline.append(unseen["untrained"])
    return baseline


def _task_inference(recipe: Recipe, records: list[dict[str, Any]]) -> dict[str, Any] | None:
    """How the task was found, and after the last task the mean share of examples for which it was the right one, and acc had it been told."""
    if recipe.task_inference.rule == "told":
        return None
    last = records[-1]["task_inference"]
    means = {key: sum(last[key]) / len(last[key]) for key in last}
    return {**recipe.task_inference.model_dump(), "acc_told": means["accuracy_told"], "task_found": means["task_found"]}


def _write_page(recipe: Recipe, folder: RunFolder, store: Store, summary: dict[str, Any]) -> None:
    names = [task["name"] for task in summary["tasks"]]
    page = render_report(
        summary,
        inspection=inspect_store(store),
        graph_svg=folder.graph.read_text(encoding="utf-8"),
        parity={name: folder.read_record(name)["parity"] for name in names},
        recipe_text=folder.recipe.read_text(encoding="utf-8"),
        name=recipe.name,
    )
    write_text(folder.report, page)


DENSE_MEANS = {
    "separate": "one dense fp32 network per task, trained on that task alone with the same epochs, data and augmentation",
    "warm": "one dense fp32 network per task, each started from the previous task's with a fresh head; same epochs, data and augmentation",
    "checkpoint": "the trained checkpoint in fp32, restricted to each task's logits; it has seen every training image, so validation is optimistic",
    "none": "no dense reference was asked for",
}
"""What `dense` means in a summary, by `reference.dense`."""


def versions() -> dict[str, str]:
    """Versions of everything that shapes a number."""
    packages = ("torch", "torch-pruning", "brevitas", "numpy", "constriction", "onnx", "onnxruntime", "openvino")
    found = {"tsn-toolkit": __version__, "python": platform.python_version(), "machine": platform.machine()}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
