"""What all tasks of one store share: the module factory, the graph, the plan, the device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from tsn_toolkit.contracts import ModelGraph
from tsn_toolkit.errors import ModelError, StoreError
from tsn_toolkit.filling import check_storable
from tsn_toolkit.graph.trace import trace
from tsn_toolkit.model_loading import check_logits, load_model
from tsn_toolkit.recipe.schema import Recipe
from tsn_toolkit.store.store import Store
from tsn_toolkit.trainer.device import seeded
from tsn_toolkit.vocabulary import TRUNK

ALONE_TOLERANCE = 1e-4
"""Largest distance of an answer from the same one in a batch, relative to the largest logit or 1; sums are rounded otherwise there."""


@dataclass(frozen=True)
class Workshop:
    """The user's module and what is known of it.

    Attributes:
        factory: makes the pristine module under the recipe's seed.
        graph: of that module.
    """

    factory: Callable[[], nn.Module]
    graph: ModelGraph


def make_workshop(factory_text: str, head: str, input_shape: tuple[int, ...], seed: int) -> Workshop:
    """Traces the pristine module once.

    Args:
        factory_text: as in `model.factory`.
        head: module path, or `auto`.
        input_shape: of one example.
        seed: of the fresh initialisation.

    Raises:
        GraphError: the module cannot be traced.
        ModelError: it cannot be made, holds something that a store cannot hold, or does not answer with logits.
    """

    def factory() -> nn.Module:
        with seeded(seed):
            return load_model(factory_text)

    model = factory()
    _check_parameters(model)
    graph = trace(model, torch.zeros(1, *input_shape), head=None if head == "auto" else head)
    check_storable(model, graph)
    check_logits(model, graph.head, input_shape)
    _check_answer(model, graph)
    return Workshop(factory=factory, graph=graph)


def _check_parameters(model: nn.Module) -> None:
    """Every parameter holds float32 numbers: learning, stored scales and exports all do."""
    for name, parameter in model.named_parameters():
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            raise ModelError(f"parameter `{name}` belongs to a lazy module and has no shape yet. Give the layer its sizes in the factory.")
        if parameter.is_meta:
            raise ModelError(f"parameter `{name}` is on the meta device and has no values. Let the factory build the model on the CPU.")
        if parameter.dtype != torch.float32:
            raise ModelError(
                f"parameter `{name}` is {parameter.dtype}; a network is learned and stored from torch.float32. Return `model.float()` from the "
                "factory (`precision: bf16` in the recipe trains faster)."
            )


def _check_answer(model: nn.Module, graph: ModelGraph) -> None:
    """Two examples are answered with finite logits, each as it is answered alone."""
    with torch.no_grad(), seeded(0):
        shape = (2, *graph.input_shape)
        x = torch.randint(0, graph.numbers_below, shape).float() if graph.numbers_below else torch.rand(shape)
        answer, alone = model(x), model(x[:1])
    if not answer.isfinite().all():
        raise ModelError("the model answers inputs between 0 and 1 with numbers that are not finite. Correct its weights or its forward.")
    if float((answer[:1] - alone).abs().max()) > ALONE_TOLERANCE * max(float(answer.abs().max()), 1.0):
        raise ModelError(
            "the model answers an example beside another otherwise than alone: in evaluation it looks at the batch, or draws random numbers. "
            "A stored task must answer each example by itself. Change forward."
        )


def workshop_of_store(store: Store) -> Workshop:
    """The workshop that a store's own recipe describes.

    Raises:
        StoreError: the module that the recipe's factory makes today is not the one that was stored.
    """
    recipe = store.recipe(TRUNK)
    model = recipe["model"]
    shop = make_workshop(model["factory"], model["head"], store.architecture.input_shape, recipe["seed"])
    if shop.graph.fingerprint != store.fingerprint:
        raise StoreError(
            f"{store.path}: factory `{model['factory']}` makes another module than the one that was stored (its parameter names, shapes or types "
            "differ). "
            "Use the version of the code that the store was made with."
        )
    return shop


def recipe_of_task(store: Store, task: str) -> tuple[Recipe, int]:
    """The recipe that a task was learned with, and the task's index in it."""
    record = store.recipe(task)
    return Recipe.model_validate({key: value for key, value in record.items() if key not in ("resolved_plan", "task_index")}), record["task_index"]
