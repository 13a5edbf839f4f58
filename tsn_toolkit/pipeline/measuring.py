"""Everything that is known of one committed task: extracted, exported, passed through its gates, timed, and R measured anew."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from tsn_toolkit.contracts import ExtractedModel, TaskData
from tsn_toolkit.data.splits import task_names
from tsn_toolkit.delivery import BenchSettings, Delivery, deliver
from tsn_toolkit.extract import extract
from tsn_toolkit.files import read_json, write_json
from tsn_toolkit.pipeline.hooks import Hooks
from tsn_toolkit.pipeline.references import dense_reference
from tsn_toolkit.recipe.data_sections import data_path_variables
from tsn_toolkit.recipe.schema import Recipe
from tsn_toolkit.revisions import Answer, answer
from tsn_toolkit.run_folder import RunFolder
from tsn_toolkit.store.store import Store
from tsn_toolkit.target import Target
from tsn_toolkit.workshop import Workshop


def bench_settings(recipe: Recipe) -> BenchSettings:
    """The recipe's `bench` section."""
    return BenchSettings(threads=recipe.bench.threads, batches=recipe.bench.batches, seconds=recipe.bench.seconds)


def measure_task(
    recipe: Recipe, folder: RunFolder, store: Store, shop: Workshop, data: TaskData, index: int, targets: list[Target], hooks: Hooks
) -> None:
    """Everything that is known of one committed task, kept in its record."""
    entry = store.entry(data.name)
    dense, dense_accuracy = dense_reference(recipe, folder, shop, store, data, index, hooks)
    answers = answer(store, data.name)
    extracted = extract(shop.factory, shop.graph, answers.weights)
    record: dict[str, Any] = {
        "name": data.name,
        "parent": entry.parent,
        "accuracy": {"dense": dense_accuracy, "store": None, "exported": {}},
        "bytes": {"delta": entry.size_bytes, "exported": {}, "dense_fp32": folder.reference(data.name).stat().st_size},
        "macs": {"dense": extracted.dense_macs, "extracted": extracted.macs},
        "latency_ms": {},
        "proof_error": extracted.proof_error,
        "parity": {},
        "warnings": [],
    }
    for name in ("parent_choice", "post_training"):
        if (found := folder.kept(data.name, name)).is_file():
            record[name] = read_json(found)
    for target in targets:
        hooks.say(f"task `{data.name}`: exporting for {target.name}, both gates, benchmark")
        place = folder.package(data.name, target.name)
        done = _deliver_anew(extracted, answers, target, place, data, dense, recipe, store.recipe(data.name))
        record["accuracy"]["exported"][target.name] = done.parity["accuracy"]
        record["bytes"]["exported"][target.name] = done.model_bytes
        record["latency_ms"][target.name] = done.latency_ms
        record["parity"][target.name] = done.parity
        record["warnings"] += [f"{data.name}, {target.name}: {warning}" for warning in done.warnings]
    hooks.say(f"task `{data.name}`: measuring all {index + 1} tasks from the store in a fresh process")
    measured = hooks.measure(folder.store, data_paths=data_path_variables(recipe))
    rows = measured["tasks"]
    accuracy = {row["name"]: row["accuracy"] for row in rows}
    record["R_row"] = [accuracy.get(name) for name in task_names(recipe)[: index + 1]]  # None: retired
    record["accuracy"]["store"] = record["R_row"][index]
    record["unseen"] = measured.get("unseen")
    if recipe.task_inference.rule != "told":
        record["task_inference"] = {key: [row[key] for row in rows] for key in ("accuracy_told", "task_found")}
    write_json(folder.record(data.name), record)


def _deliver_anew(
    extracted: ExtractedModel,
    answers: Answer,
    target: Target,
    place: Path,
    data: TaskData,
    dense: nn.Module,
    recipe: Recipe,
    stored_recipe: Mapping[str, Any],
) -> Delivery:
    """A package of this run; one that a killed run left before its record was written is made again."""
    if place.exists():
        shutil.rmtree(place)
    weights, bench = answers.weights, bench_settings(recipe)
    trained = recipe.reference.dense != "none"
    return deliver(
        extracted,
        weights.ranges,
        target,
        place,
        data=answers.as_logits(data),
        dense=dense,
        bench=bench,
        dense_is_trained=trained,
        unit_masks=weights.unit_masks,
        recipe=stored_recipe,
    )
