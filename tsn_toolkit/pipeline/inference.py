"""Which task inputs belong to, asked of a store; see `tsn infer-task`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from tsn_toolkit.data.examples import make_split
from tsn_toolkit.errors import DataError
from tsn_toolkit.parts.task_inference import InferenceRule
from tsn_toolkit.recipe.schema import TaskInferenceSection
from tsn_toolkit.store.store import Store
from tsn_toolkit.verify.unnamed import candidates_of, measure_unnamed
from tsn_toolkit.workshop import workshop_of_store


def infer_on_test_data(store_path: Path, rule: InferenceRule, batch: int) -> dict[str, Any]:
    """How often a store finds the task of its own test data, and how accurate it is then.

    Args:
        store_path: a store whose tasks stand for themselves.
        rule: see `parts/task_inference.py`.
        batch: examples of one task that are looked at together.

    Returns:
        `rule`; `batch`; `tasks`: the rows of `measure_unnamed`, with `attributed`.
    """
    store = Store.open(store_path)
    settings = TaskInferenceSection(rule=rule, batch=batch)
    return {"rule": rule, "batch": batch, "tasks": measure_unnamed(store, workshop_of_store(store), settings, attributed=True)}


def infer_file(store_path: Path, inputs: Path, rule: InferenceRule) -> dict[str, Any]:
    """The task that the examples of a file belong to.

    Args:
        store_path: a store whose tasks stand for themselves.
        inputs: .npy array (n, ...), uint8 or float, as the data source gives examples, all of one task.
        rule: see `parts/task_inference.py`.

    Returns:
        `task`: the name; `slopes`: task -> derivative of the entropy by the task's share, where all tasks are candidates; `examples`: their number.

    Raises:
        DataError: the file is no array, or its examples have another shape than the store's.
    """
    store = Store.open(store_path)
    try:
        array = np.load(inputs, allow_pickle=False)
    except (OSError, ValueError, EOFError) as problem:
        raise DataError(f"{inputs} is no readable .npy array ({problem}). Write it with numpy.save.") from problem
    shape = store.architecture.input_shape
    if not isinstance(array, np.ndarray) or array.shape[1:] != shape:
        given = array.shape if isinstance(array, np.ndarray) else "an archive"
        raise DataError(f"{inputs} must be an array of examples (n, {', '.join(map(str, shape))}), got {given}. Write one array of that shape.")
    x = make_split(array, torch.zeros(len(array), dtype=torch.int64), origin=str(inputs)).x
    candidates = candidates_of(store, workshop_of_store(store))
    normalised = candidates.normalised(x)
    found = candidates.find(normalised, rule)
    return {"task": candidates.names[found], "slopes": candidates.slopes(normalised), "examples": len(x)}
