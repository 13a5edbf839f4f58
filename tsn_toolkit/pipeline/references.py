"""The dense fp32 networks that a run is compared with: one file per task in the run's folder, trained once and kept."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import nn

from tsn_toolkit.bench.denominators import dense_state
from tsn_toolkit.contracts import TaskData
from tsn_toolkit.data.splits import load_task
from tsn_toolkit.files import write_bytes
from tsn_toolkit.model_loading import load_model, set_head
from tsn_toolkit.pipeline.hooks import Hooks
from tsn_toolkit.pipeline.learning import task_context
from tsn_toolkit.plan.file import plan_from_dict
from tsn_toolkit.recipe.environment import expand
from tsn_toolkit.recipe.schema import Recipe
from tsn_toolkit.run_folder import RunFolder
from tsn_toolkit.store.store import Store
from tsn_toolkit.trainer.dense import restrict_head, train_dense
from tsn_toolkit.trainer.loop import evaluate
from tsn_toolkit.vocabulary import TRUNK
from tsn_toolkit.workshop import Workshop


def dense_reference(
    recipe: Recipe, folder: RunFolder, shop: Workshop, store: Store, data: TaskData, index: int, hooks: Hooks
) -> tuple[nn.Module, float | None]:
    """The dense fp32 network of one task, kept as a file, and its test accuracy (None where no reference is asked for).

    Args:
        recipe: its `reference` section says which network.
        folder: of the run; a network that it holds already is taken from there.
        shop: of the store.
        store: names the plan; what it holds plays no part.
        data: the task.
        index: of the task in the recipe.
        hooks: how the run talks to its caller.
    """
    kind, head, path = recipe.reference.dense, shop.graph.head, folder.reference(data.name)
    if kind == "none":
        model = shop.factory()
        _save(dense_state(model, head, [len(data.classes)]), path)
        return model, None
    if kind == "checkpoint":
        full = load_model(recipe.model.factory, expand(recipe.model.checkpoint or ""), sha256=recipe.model.checkpoint_sha256)
        model = restrict_head(full, head, data.classes)
        _save(_saved_state(model), path)
    else:
        model = _trained(recipe, folder, shop, store, data, index, hooks)
    return model, evaluate(model, data.test, data, torch.device("cpu"))[1]


def _trained(recipe: Recipe, folder: RunFolder, shop: Workshop, store: Store, data: TaskData, index: int, hooks: Hooks) -> nn.Module:
    """The task's own network: the one that the folder holds, or one trained now; where it starts from another task's, that one first."""
    path = folder.reference(data.name)
    if path.is_file():
        model = set_head(shop.factory(), shop.graph.head, len(data.classes)).eval()
        model.load_state_dict(load_file(path), strict=False)
        return model
    start = None
    if recipe.reference.dense == "warm" and index > 0:
        start = _trained(recipe, folder, shop, store, load_task(recipe, index - 1), index - 1, hooks).state_dict()
    hooks.say(f"task `{data.name}`: training the dense fp32 reference")
    plan = plan_from_dict(store.recipe(TRUNK)["resolved_plan"])
    context = dataclasses.replace(
        task_context(recipe, store, shop, plan, data, index, hooks),
        epochs=recipe.reference.epochs or recipe.training.epochs,
        learning_rate=recipe.reference.learning_rate or recipe.training.learning_rate,
    )
    model = train_dense(context, start)
    _save(_saved_state(model), path)
    return model


def _save(state: dict[str, torch.Tensor], path: Path) -> None:
    """Writes the whole file or none, so that a killed run leaves nothing that cannot be read."""
    write_bytes(path, save({name: tensor.detach().contiguous().clone() for name, tensor in state.items()}))


def _saved_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """Without counters that no prediction needs."""
    return {name: tensor for name, tensor in model.state_dict().items() if not name.endswith("num_batches_tracked")}
