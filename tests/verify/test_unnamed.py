"""Measuring where nobody tells the task: what is counted, by hand and from a run; and the command that finds a task."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import Result

from tsn_toolkit.data.splits import load_task
from tsn_toolkit.errors import DataError
from tsn_toolkit.extract import extract
from tsn_toolkit.recipe.schema import TaskInferenceSection
from tsn_toolkit.store.store import Store
from tsn_toolkit.verify import unnamed
from tsn_toolkit.verify.measure import measure_store
from tsn_toolkit.workshop import recipe_of_task, workshop_of_store

NAMES = ["classes-0-1", "classes-2-3", "classes-4-5"]
INFERRED = ("--set", "task_inference={rule: one-shot, batch: 8}", "--set", "tasks.count=2")
Run = Callable[..., Result]


def logits_of(store: Store, network: str, task: str) -> tuple[torch.Tensor, torch.Tensor]:
    """(logits of the small extracted network of one task on the test examples of another, their labels)."""
    shop = workshop_of_store(store)
    recipe, index = recipe_of_task(store, task)
    test = load_task(recipe, index).test
    with torch.no_grad():
        return extract(shop.factory, shop.graph, store.weights(network)).model(test.x.float() / 255), test.y


@pytest.mark.parametrize("taken_for", [0, 1, 2])
def test_a_prediction_is_right_when_its_class_is(tiny_run: Path, monkeypatch: pytest.MonkeyPatch, taken_for: int) -> None:
    """Whatever it is taken for, task 1 is right where that task's logits name its classes: never in another task, for these classes differ."""
    monkeypatch.setattr(unnamed.Candidates, "find", lambda self, x, rule: taken_for)
    store = Store.open(tiny_run / "store")
    settings = TaskInferenceSection(rule="one-shot", batch=5)
    (row,) = unnamed.measure_unnamed(store, workshop_of_store(store), settings, [NAMES[1]], attributed=True)
    logits, labels = logits_of(store, NAMES[1], NAMES[1])
    told = float((logits.argmax(1) == labels).double().mean())
    assert row["accuracy_told"] == told and row["samples"] == len(labels)
    assert row["accuracy"] == (told if taken_for == 1 else 0.0)
    assert row["task_found"] == (taken_for == 1) and row["attributed"] == {NAMES[taken_for]: 1.0}


def test_tasks_with_the_same_classes_need_not_be_told_apart(tsn: Run, tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    same = "tasks={split: permutation, count: 2}"
    assert tsn("run", tiny_recipe, "--set", same, "--set", "task_inference.rule=binary", "--out", tmp_path / "run").exit_code == 0
    monkeypatch.setattr(unnamed.Candidates, "find", lambda self, x, rule: 0)
    store = Store.open(tmp_path / "run" / "store")
    row = measure_store(store.path)["tasks"][1]
    logits, labels = logits_of(store, "permutation-0", "permutation-1")
    assert row["accuracy"] == float((logits.argmax(1) == labels).double().mean())
    assert row["task_found"] == 0.0


def test_a_run_measures_r_without_the_name(tsn: Run, tiny_run: Path, tiny_recipe: Path, tmp_path: Path) -> None:
    done = tsn("run", tiny_recipe, *INFERRED, "--out", tmp_path / "run")
    assert done.exit_code == 0 and "task found by one-shot for" in done.stdout
    summary = json.loads((tmp_path / "run" / "summary.json").read_text(encoding="utf-8"))
    store = Store.open(tmp_path / "run" / "store")
    rows = measure_store(store.path)["tasks"]
    assert summary["R"][1] == [row["accuracy"] for row in rows]
    assert summary["R"][0][0] == rows[0]["accuracy_told"], "one task alone is always found"
    inferred = summary["task_inference"]
    assert (inferred["rule"], inferred["batch"]) == ("one-shot", 8)
    assert inferred["task_found"] == sum(row["task_found"] for row in rows) / 2
    assert inferred["acc_told"] == sum(row["accuracy_told"] for row in rows) / 2
    told = json.loads((tiny_run / "summary.json").read_text(encoding="utf-8"))
    assert told["task_inference"] is None
    assert [row["accuracy_told"] for row in rows] == told["R"][1][:2], "what is learned does not depend on it"


def test_the_command_measures_and_finds(tsn: Run, tiny_run: Path, tmp_path: Path) -> None:
    store = Store.open(tiny_run / "store")
    measured = json.loads(tsn("infer-task", store.path, "--rule", "binary", "--batch", 16, "--json").stdout)
    settings = TaskInferenceSection(rule="binary", batch=16)
    assert measured["tasks"] == unnamed.measure_unnamed(store, workshop_of_store(store), settings, attributed=True)
    recipe, index = recipe_of_task(store, NAMES[2])
    np.save(tmp_path / "x.npy", load_task(recipe, index).test.x[:20].numpy())
    found = json.loads(tsn("infer-task", store.path, "--inputs", tmp_path / "x.npy", "--json").stdout)
    assert found["examples"] == 20 and set(found["slopes"]) == set(NAMES)
    assert found["task"] == min(found["slopes"], key=found["slopes"].get)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 8, 8), np.uint8), r"must be an array of examples \(n, 1, 8, 8\), got \(3, 8, 8\)"),
        (np.full((2, 1, 8, 8), np.nan), "example 0 holds a value that is not finite"),
        (np.zeros((0, 1, 8, 8), np.uint8), "0 examples for 0 labels"),
    ],
)
def test_inputs_that_are_none(tsn: Run, tiny_run: Path, tmp_path: Path, array: np.ndarray, message: str) -> None:
    np.save(tmp_path / "x.npy", array)
    refused = tsn("infer-task", tiny_run / "store", "--inputs", tmp_path / "x.npy")
    assert refused.exit_code == 1
    assert re.search(message, refused.stderr), refused.stderr


def test_tasks_of_different_normalisation_have_no_common_input(tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store.open(tiny_run / "store")

    def other(store: Store, name: str) -> tuple:
        recipe, index = recipe_of_task(store, name)
        data = recipe.data.model_copy(update={"mean": (0.5,), "std": (0.5,)} if name == NAMES[1] else {})
        return recipe.model_copy(update={"data": data}), index

    monkeypatch.setattr(unnamed, "recipe_of_task", other)
    with pytest.raises(DataError, match=f"tasks `{NAMES[0]}` and `{NAMES[1]}` normalise their data differently"):
        unnamed.candidates_of(store, workshop_of_store(store))


def test_tasks_of_one_network_have_a_setting_of_their_own(tsn: Run, tiny_recipe: Path, tmp_path: Path) -> None:
    refused = tsn("run", tiny_recipe, *INFERRED, "--set", "strategy.name=finetune", "--out", tmp_path / "run")
    assert refused.exit_code == 1
    assert "`task_inference.rule` is one-shot, but the tasks of strategy `finetune` share one network" in refused.stderr
    assert tsn("run", tiny_recipe, "--set", "strategy.name=finetune", "--set", "tasks.count=1", "--out", tmp_path / "other").exit_code == 0
    refused = tsn("infer-task", tmp_path / "other" / "store")
    assert refused.exit_code == 1 and "is a revision of one network that all tasks share" in refused.stderr
