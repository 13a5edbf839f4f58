"""Reads a task by compiled code and by arrays: the same, or the compiled code gave up."""

import numpy as np

from tsn_toolkit.errors import StoreError
from tsn_toolkit.store.compiled_chain import GivenUpError, answers
from tsn_toolkit.store.store import Store


def compiled_layers(store: Store, task: str) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]] | None:
    """q, scale and weights of each layer by compiled code; None where it gave up or the part was refused before."""
    found = {}
    try:
        for answer in answers(store._files, task):
            weights = np.full(answer.layer.shape, np.nan, np.float32)
            answer.weights_(weights)
            found[answer.layer.name] = answer.q, answer.scale.copy(), weights
    except (GivenUpError, StoreError):
        return None
    return found


def readers_agree(store: Store, task: str) -> bool:
    """Whether compiled code read the task; AssertionError where it read other layers than the arrays, or what these refuse."""
    compiled = compiled_layers(store, task)
    if compiled is None:
        return False
    try:
        arrays = {layer.name: (held.q.copy(), held.scale) for layer, held in store.layers(task)}
    except StoreError as error:
        raise AssertionError(f"compiled code read what the arrays refuse: {error}") from error
    assert list(compiled) == list(arrays)
    for name, (q, scale) in arrays.items():
        with np.errstate(over="ignore"):  # damaged scales
            expected = q * scale.reshape(-1, *[1] * (q.ndim - 1))
        for found, wanted in zip(compiled[name], (q, scale, expected), strict=True):
            assert found.dtype == wanted.dtype and found.shape == wanted.shape and found.tobytes() == wanted.tobytes(), name
    return True
