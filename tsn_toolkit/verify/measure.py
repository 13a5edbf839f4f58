"""Accuracy of every task, measured from a store's folder alone: one row of R."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from tsn_toolkit.data.splits import load_task
from tsn_toolkit.errors import StoreError
from tsn_toolkit.extract import extract
from tsn_toolkit.revisions import answer
from tsn_toolkit.store.store import Store
from tsn_toolkit.trainer.loop import evaluate
from tsn_toolkit.verify.unnamed import inference_of_store, measure_unnamed
from tsn_toolkit.verify.unseen import measure_unseen
from tsn_toolkit.workshop import recipe_of_task, workshop_of_store


def measure_store(path: Path, tasks: Sequence[str] = ()) -> dict[str, Any]:
    """Test accuracy of a store's tasks.

    Args:
        path: the store's folder.
        tasks: names to measure; empty: all.

    Returns:
        `tasks`: [{`name`, `accuracy`, `samples`, `codes_hash`}] in order of commit. Where tasks share one network, the newest revision answers for
        all of them, and the hash is its. Where the newest task's recipe has the task found (`task_inference`), also `accuracy_told` and
        `task_found`, see `verify/unnamed.py`. `unseen`: the task that follows, see `verify/unseen.py`; left out where `tasks` names some.
    """
    store = Store.open(path)
    shop = workshop_of_store(store)
    if store.entries and (inference := inference_of_store(store)).rule != "told":
        return {"tasks": measure_unnamed(store, shop, inference, tasks)}
    rows = []
    for entry in store.entries:
        if tasks and entry.name not in tasks:
            continue
        recipe, index = recipe_of_task(store, entry.name)
        data = load_task(recipe, index)
        answers = answer(store, entry.name)
        data = answers.as_logits(data)
        extracted = extract(shop.factory, shop.graph, answers.weights)
        _, accuracy = evaluate(extracted.model, data.test, data, torch.device("cpu"))
        rows.append({"name": entry.name, "accuracy": accuracy, "samples": len(data.test), "codes_hash": store.codes_hash(answers.part)})
    unseen = None if tasks or not store.entries else measure_unseen(store, shop)
    return {"tasks": rows} if unseen is None else {"tasks": rows, "unseen": unseen}


def measure_in_fresh_process(path: Path, *, data_paths: Mapping[str, str] | None = None) -> dict[str, Any]:
    """`measure_store` in another process, which has only the folder (and the data that the store's recipe names).

    Args:
        path: the store's folder.
        data_paths: environment variable -> path, `data_path_variables` of the recipe at hand; the store itself keeps no path of a machine.

    Raises:
        StoreError: the process failed; its message is passed on.
    """
    command = [sys.executable, "-m", "tsn_toolkit", "verify", str(path), "--measure", "--json"]
    environment = {**os.environ, **(data_paths or {})}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode != 0:
        raise StoreError(f"measuring {path} in a fresh process failed: {done.stderr.strip()[-2000:]}")
    measured: dict[str, Any] = json.loads(done.stdout)
    return measured
