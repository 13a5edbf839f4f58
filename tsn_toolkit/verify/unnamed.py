"""Accuracy where nobody tells a store the task: it is found by the entropy of the answers, and a prediction is right when its class is right.

Tasks with the same classes are measured domain-incrementally so, tasks with different ones class-incrementally. Every task of the store is a
candidate. All candidates' full networks are in memory at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from tsn_toolkit.data.normalisation import normalise
from tsn_toolkit.data.splits import load_task
from tsn_toolkit.errors import DataError, StoreError
from tsn_toolkit.extract import masked_model
from tsn_toolkit.parts.task_inference import InferenceRule, entropy_gradient, infer_task
from tsn_toolkit.recipe.data_sections import section_of_task
from tsn_toolkit.recipe.schema import TaskInferenceSection
from tsn_toolkit.store.store import Store
from tsn_toolkit.workshop import Workshop, recipe_of_task


@dataclass(frozen=True)
class Candidates:
    """The tasks that examples may belong to.

    Attributes:
        names: of the tasks.
        classes: of each task, the class of each logit.
        models: of each task, its full network in evaluation mode, dead units answering 0.
        mean, std: normalisation of the data, the same for all tasks.
    """

    names: tuple[str, ...]
    classes: tuple[tuple[int, ...], ...]
    models: tuple[nn.Module, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def normalised(self, x: torch.Tensor) -> torch.Tensor:
        """Examples (n, ...) as the source gives them -> as the networks see them."""
        repeat = x.shape[1] if len(self.mean) == 1 else 1
        return normalise(x, self.mean * repeat, self.std * repeat)

    def find(self, x: torch.Tensor, rule: InferenceRule) -> int:
        """Which task the normalised examples (n, ...), all of one task, belong to."""
        return infer_task(self.models, x, rule)

    def slopes(self, x: torch.Tensor) -> dict[str, float]:
        """What each task's share does to the entropy of the answers to normalised examples; the smallest is the likeliest."""
        return dict(zip(self.names, entropy_gradient(self.models, x).tolist(), strict=True))


def inference_of_store(store: Store) -> TaskInferenceSection:
    """How the newest task's recipe has the task found."""
    return recipe_of_task(store, store.entries[-1].name)[0].task_inference


def candidates_of(store: Store, shop: Workshop) -> Candidates:
    """All tasks of a store.

    Raises:
        StoreError: there is none, or they share one network.
        DataError: tasks normalise their data differently, so that there is no common input.
    """
    shared = next((entry.name for entry in store.entries if entry.isolation == "none"), None)
    if shared is not None or not store.entries:
        reason = f"task `{shared}` is a revision of one network that all tasks share" if shared else "it holds no task"
        raise StoreError(f"{store.path}: no task can be found, {reason}. Name a store whose tasks stand for themselves.")
    weights = [store.weights(entry.name) for entry in store.entries]
    mean, std = _normalisation(store)
    return Candidates(
        names=tuple(task.name for task in weights),
        classes=tuple(task.classes for task in weights),
        models=tuple(masked_model(shop.factory, shop.graph, task) for task in weights),
        mean=mean,
        std=std,
    )


def _normalisation(store: Store) -> tuple[tuple[float, ...], tuple[float, ...]]:
    found = {}
    for entry in store.entries:
        section = section_of_task(*recipe_of_task(store, entry.name))
        found[entry.name] = (section.mean, section.std)
    first, *others = found
    for name in others:
        if found[name] != found[first]:
            raise DataError(
                f"{store.path}: tasks `{first}` and `{name}` normalise their data differently, {found[first]} and {found[name]}; whoever does not "
                "know the task cannot do that. Give all tasks one `mean` and `std`."
            )
    return found[first]


def measure_unnamed(
    store: Store, shop: Workshop, settings: TaskInferenceSection, tasks: Sequence[str] = (), *, attributed: bool = False
) -> list[dict[str, Any]]:
    """Test accuracy of a store's tasks when the task is found.

    Args:
        store: of tasks that stand for themselves.
        shop: of the store.
        settings: rule (not `told`) and batch.
        tasks: names to measure; empty: all. All tasks of the store are candidates in any case.
        attributed: whether the rows say which tasks the examples were taken for.

    Returns:
        Per task `name`, `accuracy`: fraction of test examples whose class is predicted right by the task that was found; `accuracy_told`: by the
        right task; `task_found`: fraction of examples for which the right task was found; `samples`; `codes_hash`; with `attributed` also
        `attributed`: task -> fraction of the examples.
    """
    rule = settings.rule
    assert rule != "told", "the caller has looked"
    candidates = candidates_of(store, shop)
    rows = []
    for number, name in enumerate(candidates.names):
        if tasks and name not in tasks:
            continue
        recipe, index = recipe_of_task(store, name)
        test = load_task(recipe, index).test
        right, right_told, found = 0, 0, Counter[str]()
        for x, y in zip(torch.split(test.x, settings.batch), torch.split(test.y, settings.batch), strict=True):
            inputs = candidates.normalised(x)
            guess = candidates.find(inputs, rule)
            wanted = torch.tensor(candidates.classes[number])[y]
            right += _right(candidates, guess, inputs, wanted)
            right_told += _right(candidates, number, inputs, wanted)
            found[candidates.names[guess]] += len(y)
        count = len(test)
        row = {"name": name, "accuracy": right / count, "accuracy_told": right_told / count, "task_found": found[name] / count, "samples": count}
        row["codes_hash"] = store.codes_hash(name)
        rows.append({**row, "attributed": {task: hits / count for task, hits in found.items()}} if attributed else row)
    return rows


@torch.no_grad()
def _right(candidates: Candidates, task: int, x: torch.Tensor, classes: torch.Tensor) -> int:
    """How many of the normalised examples task `task` gives their class."""
    predicted = torch.tensor(candidates.classes[task])[candidates.models[task](x).argmax(1)]
    return int((predicted == classes).sum())
