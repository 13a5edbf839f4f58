"""All stages, in order: recipe -> graph -> plan -> learn -> commit -> extract -> export -> verify -> report.

The only module that knows every stage. Each stage writes its result before the next starts, so a killed run resumes where it stood: tasks that are
committed stay, a task that was not is learned again from the committed store alone and gives the same bytes.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import platform
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from tsn_toolkit import __version__, metrics, registry
from tsn_toolkit.bench.denominators import dense_state, measure_denominators
from tsn_toolkit.bench.latency import bench_onnxruntime
from tsn_toolkit.contracts import CompressionPlan, ExtractedModel, ModelGraph, TaskData, TaskResult
from tsn_toolkit.data.loading import load_data
from tsn_toolkit.data.splits import load_task, task_names
from tsn_toolkit.delivery import BenchSettings, Delivery, deliver
from tsn_toolkit.errors import ModelError, RunError
from tsn_toolkit.export.package import GOLDEN_FILE
from tsn_toolkit.extract import extract
from tsn_toolkit.files import folder_bytes, read_json, write_json, write_text
from tsn_toolkit.filling import check_same_constants
from tsn_toolkit.graph.listing import graph_json, graph_table
from tsn_toolkit.graph.picture import graph_svg
from tsn_toolkit.graph.trace import trace
from tsn_toolkit.model_loading import load_model, set_head
from tsn_toolkit.parts.trunk import checkpoint_trunk, seed_trunk, trunk_weights
from tsn_toolkit.plan.file import load_plan, plan_from_dict, plan_text_of, plan_to_dict, save_plan
from tsn_toolkit.plan.make import make_plan
from tsn_toolkit.plan.settings import PlanSettings
from tsn_toolkit.recipe.environment import expand, portable
from tsn_toolkit.recipe.loading import load_recipe, resolve_recipe
from tsn_toolkit.recipe.schema import Recipe
from tsn_toolkit.recipe.yaml_document import dump_yaml
from tsn_toolkit.report.page import render_report
from tsn_toolkit.run_folder import RunFolder, create_run_folder, open_run_folder
from tsn_toolkit.store.inspect import inspect_store, sharing_matrix
from tsn_toolkit.store.store import Store
from tsn_toolkit.target import Target, list_targets, load_target
from tsn_toolkit.trainer.context import TaskContext
from tsn_toolkit.trainer.dense import restrict_head, train_dense
from tsn_toolkit.trainer.device import pick_device, pick_dtype
from tsn_toolkit.trainer.loop import Progress, TrainingSettings, evaluate
from tsn_toolkit.verify.measure import DATA_PATH_VARIABLE, measure_in_fresh_process, measure_store
from tsn_toolkit.verify.package_check import verify_package
from tsn_toolkit.vocabulary import MAX_CODE, TRUNK
from tsn_toolkit.workshop import Workshop, make_workshop, recipe_of_task, workshop_of_store

Say = Callable[[str], None]
"""Called with one line of news for the log and the user."""


@dataclass(frozen=True)
class Hooks:
    """How a run talks to its caller.

    Attributes:
        say: one line of news.
        progress: called while something trains.
    """

    say: Say
    progress: Progress | None = None


def strategy_config(name: str) -> type:
    """Options model of a strategy."""
    return registry.load("tsn_toolkit.strategies", name).Config


# ------------------------------------------------------------------------------------------------------------------ whole runs


def run(recipe: Recipe, out: Path, hooks: Hooks) -> dict[str, Any]:
    """A new run in a new folder; returns the summary."""
    targets = [load_target(name) for name in recipe.targets]
    folder = create_run_folder(out, dump_yaml(resolve_recipe(recipe)))
    return _continue(recipe, folder, targets, hooks)


def resume(out: Path, hooks: Hooks) -> dict[str, Any]:
    """Continues a run that was stopped, from its own recipe; returns the summary."""
    folder = open_run_folder(out)
    recipe = load_recipe(folder.recipe, strategy_config=strategy_config)
    return _continue(recipe, folder, [load_target(name) for name in recipe.targets], hooks)


def _continue(recipe: Recipe, folder: RunFolder, targets: list[Target], hooks: Hooks) -> dict[str, Any]:
    hooks = _logged(folder, hooks)
    if not folder.store.joinpath("manifest.json").is_file():
        found_store(recipe, folder, targets, hooks)
    store = Store.open(folder.store)
    shop = workshop_of_store(store)
    names = task_names(recipe)
    for index, name in enumerate(names):
        data = load_task(recipe, index)
        if index >= len(store.entries):
            hooks.say(f"task {index + 1}/{len(names)} `{name}`: learning")
            learn_and_commit(recipe, store, shop, data, index, hooks)
            store = Store.open(folder.store)
        if not folder.record(name).is_file():
            _measure_task(recipe, folder, store, shop, data, index, targets, hooks)
    return _summarise(recipe, folder, store, shop, names, hooks)


def add_task(store_path: Path, recipe: Recipe, out: Path | None, hooks: Hooks) -> dict[str, Any]:
    """Learns the first task of `recipe` that the store does not hold and commits it; earlier parts are not touched.

    Args:
        store_path: an existing store.
        recipe: names the task's data and how to learn it.
        out: where exports and measurements go; None: only the store grows.
    """
    store = Store.open(store_path)
    shop = workshop_of_store(store)
    held = {entry.name for entry in store.entries}
    index = next((i for i, name in enumerate(task_names(recipe)) if name not in held), None)
    if index is None:
        raise RunError(f"{store_path} already holds every task of recipe `{recipe.name}` ({', '.join(sorted(held))}). Name a recipe with a new task.")
    data = load_task(recipe, index)
    hooks.say(f"task `{data.name}`: learning")
    learn_and_commit(recipe, store, shop, data, index, hooks)
    store = Store.open(store_path)
    result: dict[str, Any] = {"store": str(store_path), "task": data.name, "marginal_bytes": store.entries[-1].size_bytes}
    result["measured"] = measure_in_fresh_process(store_path, data_path=recipe.data.path)["tasks"]
    if out is not None:
        result["packages"] = export_packages(store, shop, data, recipe, [load_target(name) for name in recipe.targets], out / data.name, hooks)
    return result


def export_from_store(store_path: Path, task: str, target_name: str, out: Path, data_path: Path | None, hooks: Hooks) -> dict[str, Any]:
    """Packages of one committed task.

    Args:
        store_path: the store.
        task: name of the task.
        target_name: a target, or `all`.
        out: a folder per target is made in it.
        data_path: stands in for `data.path` of the store's recipe.
    """
    store = Store.open(store_path)
    recipe, index = recipe_of_task(store, task)
    if data_path is not None:
        recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"path": str(data_path)})})
    names = list_targets() if target_name == "all" else (target_name,)
    shop = workshop_of_store(store)
    return {"task": task, "packages": export_packages(store, shop, load_task(recipe, index), recipe, [load_target(n) for n in names], out, hooks)}


def export_packages(
    store: Store, shop: Workshop, data: TaskData, recipe: Recipe, targets: list[Target], out: Path, hooks: Hooks
) -> dict[str, dict[str, Any]]:
    """One package per target; target name -> path and what was measured. Latency stands beside a dense network of the pristine size."""
    weights = store.weights(data.name)
    extracted = extract(shop.factory, shop.graph, weights)
    dense = set_head(shop.factory(), shop.graph.head, len(data.classes)).eval()
    packages = {}
    for target in targets:
        hooks.say(f"task `{data.name}`: exporting for {target.name}, both gates, benchmark")
        done = deliver(extracted, weights.ranges, target, out / target.name, data=data, dense=dense, bench=bench_settings(recipe))
        packages[target.name] = {"path": str(out / target.name), "model_bytes": done.model_bytes, "parity": done.parity, "latency_ms": done.latency_ms}
    return packages


def bench_settings(recipe: Recipe) -> BenchSettings:
    """The recipe's `bench` section."""
    return BenchSettings(threads=recipe.bench.threads, batches=recipe.bench.batches, seconds=recipe.bench.seconds)


def verify_path(path: Path, *, measure: bool) -> dict[str, Any]:
    """Verifies a package or a store; see `tsn verify`.

    Raises:
        GateError: the package is not what its manifest says, or does not answer as recorded.
        StoreError: a part of the store is damaged.
    """
    if not (path / "trunk.safetensors").exists() and (path / GOLDEN_FILE).exists():
        if measure:
            raise RunError(f"{path} is a package; --measure is for a store. Leave it out.")
        return dataclasses.asdict(verify_package(path))
    if measure:
        return measure_store(path)
    store = Store.open(path)
    return {"tasks": [{"name": entry.name, "codes_hash": store.codes_hash(entry.name)} for entry in store.entries], "total_bytes": folder_bytes(path)}


def bench_path(package: Path) -> dict[str, Any]:
    """Times a package in its own runtime."""
    return bench_onnxruntime(package)


def analyze_model(factory: str, shape: tuple[int, ...], checkpoint: Path | None, head: str | None) -> tuple[ModelGraph, str, dict[str, Any], str]:
    """Graph, table, JSON record and picture of a module."""
    model = load_model(factory, checkpoint)
    graph = trace(model, torch.zeros(shape), head=head)
    return graph, graph_table(graph), graph_json(graph), graph_svg(graph)


def plan_text(recipe: Recipe) -> str:
    """The plan that a run of the recipe would make, as the text of its file."""
    return plan_text_of(load_or_make_plan(recipe, shop_of_recipe(recipe).graph, [load_target(name) for name in recipe.targets]))


# ------------------------------------------------------------------------------------------------------- graph, plan and trunk


def found_store(recipe: Recipe, folder: RunFolder, targets: list[Target], hooks: Hooks) -> Store:
    """Everything before the first task: checkpoint checked, graph traced, plan made, trunk committed."""
    shop = shop_of_recipe(recipe)
    graph = shop.graph
    hooks.say(f"graph: {len(graph.nodes)} operations, {len(graph.layers)} layers, {len(graph.groups)} groups, {graph.macs / 1e6:.2f} M MACs")
    plan = load_or_make_plan(recipe, graph, targets)
    save_plan(plan, folder.plan)
    write_text(folder.path / "graph.svg", graph_svg(graph))
    if trunk_kind(recipe) == "checkpoint":
        model = load_model(recipe.model.factory, expand(recipe.model.checkpoint or ""), sha256=recipe.model.checkpoint_sha256)
        check_same_constants(model, shop.factory())
        check_reference_accuracy(recipe, model, hooks)
        trunk = checkpoint_trunk(model, graph, bit_width=plan.trunk_bit_width, max_code=plan.max_code, seed=recipe.seed)
    else:
        trunk = seed_trunk(recipe.seed)
    return Store.create(folder.store, trunk=trunk, graph=graph, recipe={**stored_recipe(recipe, 0), "resolved_plan": plan_to_dict(plan)})


def shop_of_recipe(recipe: Recipe) -> Workshop:
    """The workshop that a recipe describes."""
    shape = tuple(load_task(recipe, 0).train.x.shape[1:])
    return make_workshop(recipe.model.factory, recipe.model.head, shape, recipe.seed)


def load_or_make_plan(recipe: Recipe, graph: ModelGraph, targets: list[Target]) -> CompressionPlan:
    """The plan file that the recipe names, or one made from its settings under the strictest target."""
    if recipe.plan.file is not None:
        return load_plan(Path(expand(recipe.plan.file)), graph=graph)
    section = recipe.plan
    settings = PlanSettings(
        units_keep=section.units_keep,
        unit_overrides=section.unit_overrides,
        target_macs=section.target_macs,
        min_units=section.min_units,
        channel_multiple=section.channel_multiple,
        density=section.density,
        bit_width=section.bit_width,
        granularity=section.granularity,
        layer_overrides={name: override.model_dump(exclude_none=True) for name, override in section.layer_overrides.items()},
        trunk_bit_width=recipe.trunk.bit_width,
        max_code=min([MAX_CODE, *(target.max_code for target in targets)]),
    )
    return make_plan(graph, settings)


def trunk_kind(recipe: Recipe) -> str:
    """`checkpoint` or `seed`."""
    if recipe.trunk.kind != "auto":
        return recipe.trunk.kind
    return "checkpoint" if recipe.model.checkpoint else "seed"


def check_reference_accuracy(recipe: Recipe, model: nn.Module, hooks: Hooks) -> None:
    """A checkpoint must score what the recipe says on the full test set before anything is built on it.

    Raises:
        ModelError: it does not.
    """
    wanted = recipe.model.reference_accuracy
    if wanted is None:
        return
    _, test = load_data(recipe.data)
    train, _ = load_data(recipe.data.model_copy(update={"train_limit": 2}))
    whole = TaskData("all", tuple(range(int(test.y.max()) + 1)), train, train, test, recipe.data.mean, recipe.data.std)
    _, accuracy = evaluate(model, test, whole, torch.device("cpu"))
    hooks.say(f"checkpoint: accuracy {accuracy:.4f} on the full test set ({len(test)} examples), {wanted:.4f} expected")
    if abs(accuracy - wanted) > recipe.model.reference_tolerance + 1e-9:
        raise ModelError(
            f"checkpoint {recipe.model.checkpoint} scores {accuracy:.4f} on the full test set, `model.reference_accuracy` says {wanted:.4f} "
            f"(tolerance {recipe.model.reference_tolerance}). Check the preprocessing (`data.mean`, `data.std`) and the checkpoint."
        )


def stored_recipe(recipe: Recipe, tasks: int) -> dict[str, Any]:
    """The part of a recipe that decides what is stored, as far as the first `tasks` tasks.

    Names, targets, benchmarks and references decide no byte of a store; later tasks decide no byte of an earlier one. Leaving them out is what makes a
    run of T tasks equal to a run of one and T - 1 added tasks, byte for byte.
    """
    record = resolve_recipe(recipe)
    for key in ("description", "targets", "bench", "reference"):
        record.pop(key)
    record["name"] = "stored"
    record["data"]["path"] = portable(record["data"]["path"], DATA_PATH_VARIABLE)
    record["model"]["checkpoint"] = portable(record["model"]["checkpoint"], "TSN_CHECKPOINT_PATH")
    record["plan"]["file"] = None  # the plan itself stands beside the recipe
    record["tasks"] = {**record["tasks"], "count": tasks, "explicit": record["tasks"]["explicit"][:tasks]} if tasks else {}
    if record["tasks"].get("split") == "explicit":
        record["tasks"]["count"] = None
    return record


# ------------------------------------------------------------------------------------------------------------ learn and commit


def learn_and_commit(recipe: Recipe, store: Store, shop: Workshop, data: TaskData, index: int, hooks: Hooks) -> None:
    """Task `index` from (committed store, recipe, seed, data) alone, then its part in the store."""
    strategy = registry.load("tsn_toolkit.strategies", recipe.strategy.name)
    plan = plan_from_dict(store.recipe(TRUNK)["resolved_plan"])
    result: TaskResult = strategy.learn(task_context(recipe, store, shop, plan, data, index, hooks), strategy.Config(**recipe.strategy.options))
    record = {**stored_recipe(recipe, index + 1), "resolved_plan": plan_to_dict(plan), "task_index": index}
    store.commit(result, record)


def task_context(
    recipe: Recipe, store: Store, shop: Workshop, plan: CompressionPlan, data: TaskData, index: int, hooks: Hooks
) -> TaskContext:
    """What a strategy is given."""
    parent = choose_parent(recipe, store)
    start, classes = None, ()
    if parent != TRUNK:
        start = store.weights(parent)
        classes = start.classes
    elif store.trunk().kind == "checkpoint":
        start = trunk_weights(store.trunk())
        classes = tuple(range(len(start.head.codes)))
    device = pick_device(recipe.device)
    training = recipe.training
    return TaskContext(
        factory=shop.factory,
        graph=shop.graph,
        plan=plan,
        parent=parent,
        inherited=store.frozen_view(parent),
        start=start,
        start_classes=classes,
        data=data,
        trunk_seed=recipe.seed,
        seed=int(np.random.SeedSequence([recipe.seed, index]).generate_state(1)[0]),
        epochs=training.epochs,
        learning_rate=training.learning_rate,
        importance=recipe.plan.importance,
        settings=TrainingSettings(
            batch_size=training.batch_size,
            optimizer=training.optimizer,
            momentum=training.momentum,
            weight_decay=training.weight_decay,
            augment=training.augment,
            label_smoothing=training.label_smoothing,
            device=device,
            dtype=pick_dtype(recipe.precision, device),
        ),
        progress=hooks.progress,
    )


def choose_parent(recipe: Recipe, store: Store) -> str:
    """The owner whose frozen view the next task inherits; `auto` is the trunk where it holds trained weights, else the previous task."""
    if not store.entries or recipe.parent == "trunk":
        return TRUNK
    if recipe.parent == "auto" and store.trunk().kind == "checkpoint":
        return TRUNK
    return store.entries[-1].name


# ---------------------------------------------------------------------------------------------- extract, export, verify, measure


def _measure_task(
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


# --------------------------------------------------------------------------------------------------------------------- report


def write_report(path: Path) -> Path:
    """Writes `report.html` of a finished run again; returns its path."""
    folder = open_run_folder(path)
    if not folder.summary.is_file():
        raise RunError(f"{path} is not finished: {folder.summary.name} is missing. Continue it with `tsn resume {path}`.")
    recipe = load_recipe(folder.recipe, strategy_config=strategy_config)
    _write_page(recipe, folder, Store.open(folder.store), read_json(folder.summary))
    return folder.report


def _summarise(recipe: Recipe, folder: RunFolder, store: Store, shop: Workshop, names: tuple[str, ...], hooks: Hooks) -> dict[str, Any]:
    """`summary.json` and `report.html` from the records and the store."""
    records = [read_json(folder.record(name)) for name in names]
    matrix = [record["R_row"] + [None] * (len(names) - len(record["R_row"])) for record in records]
    numbers = dataclasses.asdict(metrics.continual_metrics(matrix))
    shown = ("name", "accuracy", "bytes", "macs", "latency_ms")
    summary = {
        "name": recipe.name,
        "dense_reference": DENSE_MEANS[recipe.reference.dense],
        "tasks": [{key: record[key] for key in shown} for record in records],
        "R": matrix,
        **numbers,
        "store_bytes": folder_bytes(folder.store),
        "denominators": measure_denominators(shop.factory, shop.graph, store),
        "seed": recipe.seed,
        "versions": versions(),
        "warnings": [warning for record in records for warning in record["warnings"]],
    }
    write_json(folder.summary, summary)
    _write_page(recipe, folder, store, summary)
    hooks.say(f"report: {folder.report}")
    return summary


def _write_page(recipe: Recipe, folder: RunFolder, store: Store, summary: dict[str, Any]) -> None:
    names = [task["name"] for task in summary["tasks"]]
    owners, fractions = sharing_matrix(store)
    page = render_report(
        summary,
        inspection=inspect_store(store),
        graph_svg=(folder.path / "graph.svg").read_text(encoding="utf-8"),
        sharing=(names, fractions.tolist(), list(owners)),
        parity={name: read_json(folder.record(name))["parity"] for name in names},
        recipe_text=folder.recipe.read_text(encoding="utf-8"),
        name=recipe.name,
    )
    write_text(folder.report, page)


DENSE_MEANS = {
    "separate": "one dense fp32 network per task, trained on that task alone with the same epochs, data and augmentation",
    "checkpoint": "the trained checkpoint in fp32, restricted to each task's logits; it has seen the whole training set, so validation drops are optimistic",
    "none": "no dense reference was asked for",
}
"""What `dense` means in a summary, by `reference.dense`."""


def versions() -> dict[str, str]:
    """Versions of everything that shapes a number."""
    packages = ("torch", "torch-pruning", "brevitas", "numpy", "constriction", "onnx", "onnxruntime")
    found = {"tsn-toolkit": __version__, "python": platform.python_version(), "machine": platform.machine()}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _logged(folder: RunFolder, hooks: Hooks) -> Hooks:
    def say(line: str) -> None:
        folder.log(line)
        hooks.say(line)

    return Hooks(say=say, progress=hooks.progress)
