"""Whose values each task uses, which of them it shares with other tasks, and which units it keeps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tsn_toolkit.store.store import Store
from tsn_toolkit.vocabulary import TRUNK, SlotState

UNUSED = -1
"""In place of an owner's number where a task does not use the slot."""


@dataclass(frozen=True)
class Sharing:
    """Sharing between the tasks of a store, which stand in order of their commits; fractions are in [0, 1].

    Attributes:
        tasks: names.
        owners: the trunk, then the tasks.
        by_owner: float64 (tasks, owners), of the slots that a task uses those whose value belongs to each owner (a refined value to the task that
            refines it). A row sums to 1, or to 0 for a task that uses no slot.
        with_task: float64 (tasks, tasks), of the slots that the row's task uses those where the column's task reads the same owner's value.
        layers: layer name -> `used` and `exclusive`, one number per task: fraction of the layer's slots that it uses, and of those whose value no
            other task reads.
        units: group name -> `size`, and one number per task: `kept` units, and `exclusive` ones, which no other task keeps. Groups of which all tasks
            keep all units are left out.
    """

    tasks: tuple[str, ...]
    owners: tuple[str, ...]
    by_owner: NDArray[np.float64]
    with_task: NDArray[np.float64]
    layers: dict[str, dict[str, list[float]]]
    units: dict[str, dict[str, Any]]

    def record(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "tasks": list(self.tasks),
            "owners": list(self.owners),
            "by_owner": self.by_owner.tolist(),
            "with_task": self.with_task.tolist(),
            "layers": self.layers,
            "units": self.units,
        }


def sharing(store: Store) -> Sharing:
    """What the tasks of a store share.

    Raises:
        StoreError: a part is damaged.
    """
    owners = (TRUNK, *(entry.name for entry in store.entries))
    by_owner = np.zeros((len(owners) - 1, len(owners)), np.int64)
    same = np.zeros((len(owners) - 1, len(owners) - 1), np.int64)
    layers = {}
    for layer, read in _values_read(store):
        exclusive = []
        for number, row in enumerate(read):
            by_owner[number] += np.bincount(row[row != UNUSED], minlength=len(owners))
            equal = (read == row) & (row != UNUSED)
            same[number] += equal.sum(axis=1)
            exclusive.append(float((equal.sum(axis=0) == 1).sum() / max(row.size, 1)))
        layers[layer] = {"used": [float((row != UNUSED).sum() / max(row.size, 1)) for row in read], "exclusive": exclusive}
    used = np.maximum(by_owner.sum(axis=1, keepdims=True), 1)
    return Sharing(owners[1:], owners, by_owner / used, same / used, layers, _units(store))


def _values_read(store: Store) -> Iterator[tuple[str, NDArray[np.int32]]]:
    """Per layer int32 (tasks, slots): the number of the owner whose value the task reads at the slot, or `UNUSED`."""
    for layer, owners in store.layers_of_all():
        view: dict[str, NDArray[np.int32]] = {}
        read = np.full((len(store.entries), layer.size), UNUSED, np.int32)
        for number, (name, held) in enumerate(owners):
            view[name] = np.full(layer.shape, UNUSED, np.int32) if name == TRUNK else view[store.entry(name).parent].copy()
            if held.own is not None:
                view[name][held.states >= SlotState.OWN] = number
            if name != TRUNK:
                read[number - 1] = np.where(held.states != SlotState.PRUNED, view[name], UNUSED).reshape(-1)
        yield layer.name, read


def _units(store: Store) -> dict[str, dict[str, Any]]:
    """Kept units of every group that some task shrinks."""
    masks = [store.part(entry.name).unit_masks for entry in store.entries]
    found = {}
    for group in store.architecture.groups:
        kept = np.array([mask.get(group.name, np.ones(group.size, np.bool_)) for mask in masks], np.bool_).reshape(len(masks), group.size)
        if not kept.all():
            alone = kept & (kept.sum(axis=0) == 1)
            found[group.name] = {"size": group.size, "kept": kept.sum(axis=1).tolist(), "exclusive": alone.sum(axis=1).tolist()}
    return found
