"""Everything that is known of one committed task: extracted, exported, passed through its gates, timed, and R measured anew."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from tsn_toolkit.bench.denominators import dense_state
from tsn_toolkit.contracts import ExtractedModel, TaskData
from tsn_toolkit.delivery import BenchSettings, Delivery, deliver
from tsn_toolkit.extract import extract
from tsn_toolkit.files import write_json
from tsn_toolkit.model_loading import load_model, set_head
from tsn_toolkit.pipeline.hooks import Hooks
from tsn_toolkit.pipeline.learning import task_context
from tsn_toolkit.plan.file import plan_from_dict
from tsn_toolkit.recipe.environment import expand
from tsn_toolkit.recipe.schema import Recipe
from tsn_toolkit.run_folder import RunFolder
from tsn_toolkit.store.store import Store
from tsn_toolkit.target import Target
from tsn_toolkit.trainer.dense import restrict_head, train_dense
from tsn_toolkit.trainer.loop import evaluate
from tsn_toolkit.verify.measure import measure_in_fresh_process
from tsn_toolkit.vocabulary import TRUNK
from tsn_toolkit.workshop import Workshop


def bench_settings(recipe: Recipe) -> BenchSettings:
    """The recipe's `bench` section."""
    return BenchSettings(threads=recipe.bench.threads, batches=recipe.bench.batches, seconds=recipe.bench.seconds)




def measure_task(
    recipe: Recipe, folder: RunFolder, store: Store, shop: Workshop, data: TaskData, index: int, targets: list[Target], hooks: Hooks
) -> None:
    """Everything that is known of one committed task, kept in its record."""
    entry = store.entries[index]
    dense, dense_accuracy = _dense_reference(recipe, folder, shop, store, data, index, hooks)
    extracted = extract(shop.factory, shop.graph, store.weights(data.name))
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
    for target in targets:
        hooks.say(f"task `{data.name}`: exporting for {target.name}, both gates, benchmark")
        done = _deliver_anew(extracted, store, target, folder.package(data.name, target.name), data, dense, recipe)
        record["accuracy"]["exported"][target.name] = done.parity["accuracy"]
        record["bytes"]["exported"][target.name] = done.model_bytes
        record["latency_ms"][target.name] = done.latency_ms
        record["parity"][target.name] = done.parity
        record["warnings"] += [f"{data.name}, {target.name}: {warning}" for warning in done.warnings]
    hooks.say(f"task `{data.name}`: measuring all {index + 1} tasks from the store in a fresh process")
    rows = measure_in_fresh_process(folder.store, data_path=recipe.data.path)["tasks"][: index + 1]
    record["R_row"] = [row["accuracy"] for row in rows]
    record["accuracy"]["store"] = record["R_row"][index]
    write_json(folder.record(data.name), record)


def _deliver_anew(
    extracted: ExtractedModel, store: Store, target: Target, place: Path, data: TaskData, dense: nn.Module, recipe: Recipe
) -> Delivery:
    """A package of this run; one that a killed run left before its record was written is made again."""
    if place.exists():
        shutil.rmtree(place)
    return deliver(extracted, store.weights(data.name).ranges, target, place, data=data, dense=dense, bench=bench_settings(recipe))


def _dense_reference(
    recipe: Recipe, folder: RunFolder, shop: Workshop, store: Store, data: TaskData, index: int, hooks: Hooks
) -> tuple[nn.Module, float | None]:
    """The dense fp32 network of one task, kept as a file, and its test accuracy (None where no reference is asked for)."""
    path, kind = folder.reference(data.name), recipe.reference.dense
    head = shop.graph.head
    if kind == "checkpoint":
        full = load_model(recipe.model.factory, expand(recipe.model.checkpoint or ""), sha256=recipe.model.checkpoint_sha256)
        model = restrict_head(full, head, data.classes)
    else:
        model = set_head(shop.factory(), head, len(data.classes)).eval()
        if path.is_file():
            model.load_state_dict(load_file(path), strict=False)
        elif kind == "separate":
            hooks.say(f"task `{data.name}`: training the dense fp32 reference")
            plan = plan_from_dict(store.recipe(TRUNK)["resolved_plan"])
            context = task_context(recipe, store, shop, plan, data, index, hooks)
            context = dataclasses.replace(
                context,
                epochs=recipe.reference.epochs or recipe.training.epochs,
                learning_rate=recipe.reference.learning_rate or recipe.training.learning_rate,
            )
            model = train_dense(context)
    path.parent.mkdir(parents=True, exist_ok=True)
    state = dense_state(model, head, [len(data.classes)]) if kind == "none" else _saved_state(model)
    save_file({name: tensor.detach().contiguous().clone() for name, tensor in state.items()}, path)
    if kind == "none":
        return model, None
    return model, evaluate(model, data.test, data, torch.device("cpu"))[1]


def _saved_state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in model.state_dict().items() if not name.endswith("num_batches_tracked")}
