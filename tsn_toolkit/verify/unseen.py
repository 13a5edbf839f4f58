"""Accuracy on the next task before it is learned, where a prediction for it exists: tasks that share one network and its classes."""

from __future__ import annotations

from typing import Any

import torch

from tsn_toolkit.contracts import TaskData
from tsn_toolkit.data.splits import load_task
from tsn_toolkit.errors import RecipeError
from tsn_toolkit.extract import extract
from tsn_toolkit.model_loading import set_head
from tsn_toolkit.recipe.schema import Recipe
from tsn_toolkit.revisions import Answer
from tsn_toolkit.store.store import Store
from tsn_toolkit.trainer.device import seeded
from tsn_toolkit.trainer.loop import evaluate
from tsn_toolkit.workshop import Workshop, recipe_of_task


def measure_unseen(store: Store, shop: Workshop) -> dict[str, Any] | None:
    """R[t, t+1] and b[t+1] of the newest task t.

    Returns:
        name, `accuracy` of the newest revision on the next task's test data, and that of the network before any training (`untrained`). None where no
        task follows, where the newest task stands for itself or is told, or where the next task has other classes.
    """
    newest = store.entries[-1].name
    revision, weights = store.revision(newest), store.weights(newest)
    data = None if revision is None or revision.task_known else _next_task(*recipe_of_task(store, newest))
    if data is None or set(data.classes) != set(weights.classes):
        return None
    data = Answer(newest, weights, tuple(weights.classes.index(label) for label in data.classes)).as_logits(data)
    untrained = shop.factory()
    with seeded(store.recipe(newest)["seed"]):
        set_head(untrained, shop.graph.head, len(weights.classes))
    models = {"accuracy": extract(shop.factory, shop.graph, weights).model, "untrained": untrained.eval()}
    return {"name": data.name, **{key: evaluate(model, data.test, data, torch.device("cpu"))[1] for key, model in models.items()}}


def _next_task(recipe: Recipe, index: int) -> TaskData | None:
    """The task behind the one at `index`, with whose recipe the store ends; None where the data or the recipe give no further one."""
    further = recipe.model_copy(update={"tasks": recipe.tasks.model_copy(update={"count": index + 2})})
    try:
        return load_task(further, index + 1)
    except RecipeError:
        return None
