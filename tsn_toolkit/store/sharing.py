"""Whose values each task uses, which of them it shares with other tasks, and which units it keeps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tsn_toolkit.store.store import Store
from tsn_toolkit.vocabulary import TRUNK, SlotState

_BYTES = 8
_CHUNK = 255 * _BYTES
"""Slots compared at a time: few enough for all tasks' to stay in a processor's cache, and for 255 words of eight flags to be added up."""


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
    layers = {layer: _count_layer_(read, by_owner, same) for layer, read in _values_read(store)}
    same += same.T + np.diag(by_owner.sum(axis=1))
    used = np.maximum(by_owner.sum(axis=1, keepdims=True), 1)
    return Sharing(owners[1:], owners, by_owner / used, same / used, layers, _units(store))


def _values_read(store: Store) -> Iterator[tuple[str, NDArray[np.unsignedinteger[Any]]]]:
    """Per layer (tasks, slots): the number of the owner whose value the task reads at the slot; the number of owners where it uses none."""
    unused = len(store.entries) + 1
    kind = np.min_scalar_type(unused + 1)
    for layer, owners in store.layers_of_all():
        children = Counter(entry.parent for entry in store.entries)
        views: dict[str, NDArray[np.unsignedinteger[Any]]] = {}
        read = np.empty((len(store.entries), layer.size), kind)
        for number, (name, held) in enumerate(owners):
            view = np.full(layer.size, unused, kind) if name == TRUNK else _inherit(views, store.entry(name).parent, children)
            states = held.states.reshape(-1)
            if held.read is not None:
                np.copyto(view, kind.type(number), where=states >= SlotState.OWN)
            if name != TRUNK:
                read[number - 1] = view
                np.copyto(read[number - 1], kind.type(unused), where=states == SlotState.PRUNED)
            if children[name]:
                views[name] = view
        yield layer.name, read


def _inherit(views: dict[str, NDArray[np.unsignedinteger[Any]]], parent: str, children: Counter[str]) -> NDArray[np.unsignedinteger[Any]]:
    """A view like the parent's that may be written: for its last child the parent's own, which nobody else needs."""
    children[parent] -= 1
    return views[parent].copy() if children[parent] else views.pop(parent)


def _count_layer_(read: NDArray[np.unsignedinteger[Any]], by_owner: NDArray[np.int64], same: NDArray[np.int64]) -> dict[str, list[float]]:
    """Adds one layer to the counts of slots by owner and, above the diagonal, by pair of tasks; its fractions `used` and `exclusive`."""
    tasks, slots = read.shape
    unused = by_owner.shape[1]
    used, exclusive = np.zeros(tasks, np.int64), np.zeros(tasks, np.int64)
    equal = np.empty((tasks, _CHUNK), np.bool_)
    for start in range(0, slots, _CHUNK):
        rows = np.ascontiguousarray(read[:, start : start + _CHUNK])  # rows as far apart as a layer is long crowd each other out of the cache
        width = rows.shape[1]
        equal[:, width:] = False
        shared = rows == unused
        wanted = rows + shared  # of no task, where the task does not use the slot
        for task, row in enumerate(rows):
            counts = np.bincount(row, minlength=unused + 1)[:unused]
            by_owner[task] += counts
            used[task] += counts.sum()
            others = equal[: tasks - task - 1]
            np.equal(rows[task + 1 :], wanted[task], out=others[:, :width])
            same[task, task + 1 :] += _ones_by_row(others)
            shared[task + 1 :] |= others[:, :width]
            shared[task] |= others[:, :width].any(axis=0)
        exclusive += width - np.count_nonzero(shared, axis=1)
    return {"used": (used / max(slots, 1)).tolist(), "exclusive": (exclusive / max(slots, 1)).tolist()}


def _ones_by_row(flags: NDArray[np.bool_]) -> NDArray[np.int64]:
    """How many of each row are set: (n,) of bool (n, _CHUNK). Eight columns are added at a time, each in a byte that cannot overflow."""
    sums = flags.view(np.uint64).sum(axis=1, dtype=np.uint64)
    ones: NDArray[np.int64] = sums.view(np.uint8).reshape(len(flags), _BYTES).sum(axis=1, dtype=np.int64)
    return ones


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
