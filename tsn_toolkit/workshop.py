"""What all tasks of one store share: the module factory, the graph, the plan, the device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from tsn_toolkit.contracts import ModelGraph
from tsn_toolkit.errors import StoreError
from tsn_toolkit.filling import check_storable
from tsn_toolkit.graph.trace import trace
from tsn_toolkit.model_loading import load_model
from tsn_toolkit.recipe.schema import Recipe
from tsn_toolkit.store.store import Store
from tsn_toolkit.trainer.device import seeded
from tsn_toolkit.vocabulary import TRUNK


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
        ModelError: it cannot be made, or holds something that a store cannot hold.
    """

    def factory() -> nn.Module:
        with seeded(seed):
            return load_model(factory_text)

    model = factory()
    graph = trace(model, torch.zeros(1, *input_shape), head=None if head == "auto" else head)
    check_storable(model, graph)
    return Workshop(factory=factory, graph=graph)


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
