"""Everything before the first task: checkpoint checked, graph traced, plan made, trunk committed."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from tsn_toolkit import registry
from tsn_toolkit.contracts import CompressionPlan, TaskData
from tsn_toolkit.data.loading import load_data
from tsn_toolkit.data.splits import load_task, task_names, whole_data
from tsn_toolkit.errors import ModelError
from tsn_toolkit.export.rehearsal import check_exportable, check_plan
from tsn_toolkit.files import write_text
from tsn_toolkit.filling import check_same_constants
from tsn_toolkit.graph.fingerprint import fingerprint
from tsn_toolkit.graph.picture import graph_svg
from tsn_toolkit.model_loading import load_model, set_head
from tsn_toolkit.parts.trunk import checkpoint_trunk, seed_trunk
from tsn_toolkit.pipeline.hooks import Hooks
from tsn_toolkit.pipeline.planning import plan_of_recipe
from tsn_toolkit.pipeline.room import check_room_for_all
from tsn_toolkit.plan.file import plan_to_dict, save_plan
from tsn_toolkit.recipe.data_sections import make_data_portable_
from tsn_toolkit.recipe.environment import expand, portable
from tsn_toolkit.recipe.loading import resolve_recipe
from tsn_toolkit.recipe.schema import PostTrainingSection, Recipe, TaskInferenceSection
from tsn_toolkit.run_folder import RunFolder
from tsn_toolkit.store.store import Store
from tsn_toolkit.target import Target, load_target
from tsn_toolkit.trainer.device import seeded
from tsn_toolkit.trainer.loop import evaluate
from tsn_toolkit.vocabulary import TRUNK
from tsn_toolkit.workshop import Workshop, make_workshop


def strategy_config(name: str) -> type:
    """Options model of a strategy."""
    config: type = registry.load("tsn_toolkit.strategies", name).Config
    return config


def found_store(recipe: Recipe, folder: RunFolder, targets: list[Target], hooks: Hooks) -> Store:
    """Everything before the first task: graph traced, targets asked, plan made, checkpoint checked, trunk committed.

    Raises:
        ExportError, TargetError: a target cannot take the network.
    """
    shop = shop_of_recipe(recipe)
    graph = shop.graph
    hooks.say(f"graph: {len(graph.nodes)} operations, {len(graph.layers)} layers, {len(graph.groups)} groups, {graph.macs / 1e6:.2f} M MACs")
    check_exportable(shop.factory(), graph, targets)
    made = plan_of_recipe(recipe, graph, targets, hooks.say)
    plan = made.plan
    if getattr(registry.load("tsn_toolkit.strategies", recipe.strategy.name), "BY_ENCODING", False):
        _check_room(recipe, plan)
        check_plan(plan, targets)
    save_plan(plan, folder.plan, measured=made.measured)
    write_text(folder.graph, graph_svg(graph))
    if trunk_kind(recipe) == "checkpoint":
        model = load_model(recipe.model.factory, expand(recipe.model.checkpoint or ""), sha256=recipe.model.checkpoint_sha256)
        check_same_constants(model, shop.factory())
        check_reference_accuracy(recipe, model, hooks)
        trunk = checkpoint_trunk(
            model, graph, bit_width=plan.trunk_bit_width, max_code=plan.max_code, seed=recipe.seed, word_bits=recipe.trunk.word_bits
        )
    else:
        trunk = seed_trunk(recipe.seed, word_bits=recipe.trunk.word_bits)
    return Store.create(folder.store, trunk=trunk, graph=graph, recipe={**stored_recipe(recipe, 0), "resolved_plan": plan_to_dict(plan)})


def _check_room(recipe: Recipe, plan: CompressionPlan) -> None:
    """That the words have room for every task of the recipe, as far as the plan alone says it."""
    if not recipe.plan.adapt_bits:
        trained = trunk_kind(recipe) == "checkpoint"
        inherits = recipe.parent == "previous" or (recipe.parent == "auto" and not trained)
        tasks = len(task_names(recipe))
        check_room_for_all(plan, tasks=tasks, word_bits=recipe.trunk.word_bits, trained_trunk=trained, inherits=inherits)


def targets_of(recipe: Recipe) -> list[Target]:
    """The targets that a recipe names, variables in the paths of target files expanded.

    Raises:
        TargetError: one is unknown or malformed.
    """
    return [load_target(expand(name)) for name in recipe.targets]


def shop_of_recipe(recipe: Recipe) -> Workshop:
    """The workshop that a recipe describes.

    Raises:
        ModelError: the module cannot be made, stored, or measured as the recipe asks.
    """
    shape = tuple(load_task(recipe, 0).train.x.shape[1:])
    shop = make_workshop(recipe.model.factory, recipe.model.head, shape, recipe.seed)
    _check_logits(recipe, shop)
    return shop


def _check_logits(recipe: Recipe, shop: Workshop) -> None:
    """Where the checkpoint's own logits are measured there is one for every class.

    Raises:
        ModelError: there is not.
    """
    dense = recipe.reference.dense == "checkpoint"
    whole = [key for key, used in (("model.reference_accuracy", recipe.model.reference_accuracy), ("plan.budget", recipe.plan.budget)) if used]
    if not whole and not dense:
        return
    if not whole and recipe.tasks.split == "explicit":
        highest = max(label for task in recipe.tasks.explicit for label in task.classes)
    else:
        highest = int(load_data(whole_data(recipe))[0].y.max())
    outputs = len(shop.factory().get_parameter(f"{shop.graph.head}.weight"))
    if highest >= outputs:
        raise ModelError(
            f"`{(*whole, 'reference.dense')[0]}` measures the checkpoint's own logits: its head `{shop.graph.head}` has {outputs}, the data has a "
            f"class {highest}. Remove the key, or name the network and checkpoint that were trained on this data."
        )


def check_same_network(recipe: Recipe, store: Store, shop: Workshop) -> None:
    """Every task of a store is learned with the store's own network; the recipe's may differ from it in the size of the head alone.

    Raises:
        ModelError: the recipe's factory makes another network, or none.
    """
    stored = store.recipe(TRUNK)["model"]["factory"]
    if recipe.model.factory == stored:
        return
    head = shop.graph.head
    with seeded(recipe.seed):
        model = load_model(recipe.model.factory)
        if isinstance(dict(model.named_modules()).get(head), nn.Linear | nn.Conv2d):
            set_head(model, head, len(shop.factory().get_parameter(f"{head}.weight")))
    if fingerprint(model) != store.fingerprint:
        raise ModelError(
            f"{store.path} holds tasks of `{stored}`, the recipe's `{recipe.model.factory}` makes another network. Name the store's factory, or "
            "begin another store."
        )


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
    section = whole_data(recipe)
    _, test = load_data(section)
    train, _ = load_data(section.model_copy(update={"train_limit": 2}))
    whole = TaskData("all", tuple(range(int(test.y.max()) + 1)), train, train, test, section.mean, section.std)
    _, accuracy = evaluate(model, test, whole, torch.device("cpu"))
    hooks.say(f"checkpoint: accuracy {accuracy:.4f} on the full test set ({len(test)} examples), {wanted:.4f} expected")
    if abs(accuracy - wanted) > recipe.model.reference_tolerance + 1e-9:
        raise ModelError(
            f"checkpoint {recipe.model.checkpoint} scores {accuracy:.4f} on the full test set, `model.reference_accuracy` says {wanted:.4f} "
            f"(tolerance {recipe.model.reference_tolerance}). Check the preprocessing (`data.mean`, `data.std`) and the checkpoint."
        )


def stored_recipe(recipe: Recipe, tasks: int) -> dict[str, Any]:
    """The part of a recipe that decides what is stored, as far as the first `tasks` tasks.

    Names, targets, benchmarks and references decide no byte of a store; later tasks decide no byte of an earlier one. Leaving them out is what makes
    a run of T tasks equal to a run of one and T - 1 added tasks, byte for byte.
    """
    record = resolve_recipe(recipe)
    for key in ("description", "targets", "bench", "reference"):
        record.pop(key)
    if recipe.post_training == PostTrainingSection():
        record.pop("post_training")  # nothing is done then; a store says no more than it must
    if recipe.task_inference == TaskInferenceSection():
        record.pop("task_inference")
    record["name"] = "stored"
    make_data_portable_(record)
    record["model"]["checkpoint"] = portable(record["model"]["checkpoint"], "TSN_CHECKPOINT_PATH")
    record["plan"]["file"] = None  # the plan itself stands beside the recipe
    if not record["plan"]["child_overrides"]:
        del record["plan"]["child_overrides"]
    if record["plan"]["free_parameters"] == "inherit":
        del record["plan"]["free_parameters"]
    record["data"] = {key: value for key, value in record["data"].items() if key not in LATE_DATA_KEYS or value is not None}
    record["tasks"] = _stored_tasks(record["tasks"], tasks)
    return record


LATE_DATA_KEYS = ("test_split", "input_shape", "class_names")
"""Keys of `data` that a store names only where they are set."""


def _stored_tasks(section: dict[str, Any], tasks: int) -> dict[str, Any]:
    """The resolved section as far as the first `tasks` tasks, lists of tasks included; keys of splits that it does not have are left out."""
    if not tasks:
        return {}
    record = {**section, **{key: section[key][:tasks] for key in ("explicit", "angles", "datasets")}}
    record["datasets"] = [{key: value for key, value in entry.items() if key != "class_names" or value is not None} for entry in record["datasets"]]
    for key, default in (("groups_per_task", 1), ("angles", []), ("datasets", [])):
        if record[key] == default:
            del record[key]
    return {**record, "count": None if section["split"] == "explicit" else tasks}
