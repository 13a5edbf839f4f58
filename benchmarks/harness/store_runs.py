"""What is measured of a whole run: the store that it leaves, and how it got there."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from harness.statistics import mean
from harness.variants import FIRST_TASK_NETWORK, Variant
from tsn_toolkit.contracts import TaskData
from tsn_toolkit.data.splits import load_task
from tsn_toolkit.extract import extract
from tsn_toolkit.pipeline.founding import found_store
from tsn_toolkit.pipeline.hooks import Hooks
from tsn_toolkit.pipeline.references import dense_reference
from tsn_toolkit.pipeline.stages import run
from tsn_toolkit.recipe.schema import Recipe
from tsn_toolkit.revisions import answer
from tsn_toolkit.run_folder import RunFolder
from tsn_toolkit.store.inspect import KINDS, inspect_store
from tsn_toolkit.store.store import Store
from tsn_toolkit.trainer.loop import evaluate
from tsn_toolkit.workshop import Workshop, workshop_of_store

MakeRecipe = Callable[[Sequence[str]], Recipe]
"""From `key=value` texts to the benchmark's recipe with them."""

CPU = torch.device("cpu")


def store_numbers(make_recipe: MakeRecipe, variant: Variant, place: Path, hooks: Hooks) -> dict[str, Any]:
    """A whole run."""
    recipe = make_recipe(("reference.dense=none", *variant.overrides))
    summary = run(recipe, place / "run", hooks)
    store = Store.open(RunFolder(place / "run").store)
    inspection = inspect_store(store)
    shop = workshop_of_store(store)
    validation = [_store_accuracy(store, shop, load_task(recipe, index)) for index in range(len(store.entries))]
    rows = zip(store.entries, summary["R"][-1], validation, strict=True)
    return {
        "tasks": [{"name": entry.name, "test": test, "validation": held, "bytes": entry.size_bytes} for entry, test, held in rows],
        "isolation": store.entries[-1].isolation,
        **{key: summary[key] for key in ("acc", "bwt", "fwt", "max_forgetting", "R")},
        "validation": mean(validation),
        "store_bytes": summary["store_bytes"],
        "superseded_bytes": summary["superseded_bytes"],
        "breakdown": {kind: sum(part["breakdown"][kind] for part in inspection["parts"]) for kind in KINDS},
        "entropy_bytes": inspection["entropy_bytes"],
        "denominators": summary["denominators"],
        **({"task_inference": summary["task_inference"]} if summary["task_inference"] else {}),
        **_counted_by_strategy(store),
    }


def first_task_trunk_numbers(make_recipe: MakeRecipe, variant: Variant, place: Path, hooks: Hooks) -> dict[str, Any]:
    """A run over the first task's dense network."""
    cold = make_recipe(("reference.dense=separate",))
    folder, data = RunFolder(place / "first"), load_task(cold, 0)
    store = found_store(cold, folder, [], hooks)
    dense_reference(cold, folder, workshop_of_store(store), store, data, 0, hooks)
    with _environment(FIRST_TASK_NETWORK, str(folder.reference(data.name))):
        return store_numbers(make_recipe, variant, place, hooks)


def _counted_by_strategy(store: Store) -> dict[str, float]:
    """Operations of training, where the strategy counts its own."""
    numbers = [store.validation(entry.name) for entry in store.entries]
    return {"training_flops": sum(each["training_flops"] for each in numbers)} if all("training_flops" in each for each in numbers) else {}


def _store_accuracy(store: Store, shop: Workshop, data: TaskData) -> float:
    """Accuracy of the stored task on its validation split."""
    found = answer(store, data.name)
    data = found.as_logits(data)
    model = extract(shop.factory, shop.graph, found.weights).model
    return evaluate(model, data.validation, data, CPU)[1]


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    """Sets a variable for this process and those that it starts."""
    assert name not in os.environ, name
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]
