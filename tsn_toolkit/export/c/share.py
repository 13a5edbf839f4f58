"""Layers that tasks of one store share, stored once: the trunk's values, over them what each task owns, and per task which of it all it uses.

A task reads the frozen view of its own commit: every slot that the trunk, an ancestor or the task itself owns. The view differs from the parent's
where the task owns something, so these slots alone are stored, over the parent's values; a child that inherits them reads the same arrays. A task
whose channels were removed reads the rows and columns it kept; a task that leaves slots unused has a bit for each of its weights.

A layer is shared only where that takes fewer bytes than the tasks' own copies. What is shared must give the task's integers exactly, or it is not.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tsn_toolkit.contracts import FrozenLayer
from tsn_toolkit.export.c.layer_weights import LayerWeights, own_weights, select_weights
from tsn_toolkit.export.c.operations import Convolution, IntegerProgram
from tsn_toolkit.export.c.packing import Values, pack_values

_RECORD_BYTES = 28
"""Of one `tsn_values` where pointers have 4 bytes."""


@dataclass(frozen=True)
class OwnerView:
    """What children of an owner inherit.

    Attributes:
        parent: its own parent, "" for the trunk.
        layers: layer -> the slots that it or an ancestor owns, with their integers.
    """

    parent: str
    layers: Mapping[str, FrozenLayer]


@dataclass(frozen=True)
class TaskSlots:
    """A task's program and where its weights stand in the full layers.

    Attributes:
        program: its operations.
        slots: layer -> int64, flat index in the full layer of each weight, in the weight's shape.
    """

    program: IntegerProgram
    slots: Mapping[str, NDArray[np.int64]]


def share_weights(tasks: Mapping[str, TaskSlots], owners: Mapping[str, OwnerView]) -> dict[str, dict[str, LayerWeights]]:
    """Where the weights of every task come from.

    Args:
        tasks: name -> its program.
        owners: name -> what its children inherit, for the trunk and all tasks of the lineages, parents first. A task reads the view of its own name.

    Returns:
        task -> layer -> its weights.

    Raises:
        ExportError: a layer is too large.
    """
    result: dict[str, dict[str, LayerWeights]] = {task: {} for task in tasks}
    layers = {task: _layers(member.program) for task, member in tasks.items()}
    for layer in dict.fromkeys(name for found in layers.values() for name in found):
        members = {task: found[layer] for task, found in layers.items() if layer in found}
        own = {task: own_weights(operation.codes, where=layer) for task, operation in members.items()}
        shared = _shared(layer, members, tasks, owners)
        chosen = shared if shared is not None and _size(shared.values()) < _size(own.values()) else own
        for task, weights in chosen.items():
            result[task][layer] = weights
    return result


def _layers(program: IntegerProgram) -> dict[str, Convolution]:
    return {operation.layer: operation for operation in program.operations if isinstance(operation, Convolution)}


def _shared(
    layer: str, members: Mapping[str, Convolution], tasks: Mapping[str, TaskSlots], owners: Mapping[str, OwnerView]
) -> dict[str, LayerWeights] | None:
    """The layer of every task read from common values; None where that is not possible for one of them."""
    values = _values_of_owners(layer, owners)
    found = {}
    for task, operation in members.items():
        stored, slots = values.get(task), tasks[task].slots.get(layer)
        if stored is None or slots is None:
            return None
        taps = operation.codes[0, 0].size
        rows, columns = _kept(slots, owners[task].layers[layer].q.shape)
        weights = select_weights(stored, rows, columns, operation.codes.reshape(len(operation.codes), -1), taps)
        if weights is None:
            return None
        found[task] = weights
    return found


def _values_of_owners(layer: str, owners: Mapping[str, OwnerView]) -> dict[str, Values | None]:
    """Owner -> the values that lie in flash for it and its ancestors; None where it and they own nothing, or do not have the layer."""
    values: dict[str, Values | None] = {}
    for name, owner in owners.items():
        under = values.get(owner.parent)
        view = owner.layers.get(layer)
        values[name] = under
        if view is None:
            continue
        q, new = view.q.reshape(len(view.q), -1), view.present.reshape(len(view.q), -1)
        if under is not None:
            above = owners[owner.parent].layers[layer]
            new = new & ~(above.present.reshape(q.shape) & (above.q.reshape(q.shape) == q))
        if new.any():
            packed = pack_values(q, new, where=layer, under=under)
            values[name] = dataclasses.replace(packed, under=None) if packed.places == "every" else packed
    return values


def _kept(slots: NDArray[np.int64], shape: tuple[int, ...]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows and columns of the full layer that a task's weights come from."""
    row, taps = int(np.prod(shape[1:])), int(np.prod(shape[2:]))
    first_rows = slots.reshape(len(slots), -1)[:, 0] // row
    first_columns = slots[0].reshape(slots.shape[1], -1)[:, 0] % row // taps
    return first_rows, first_columns


def _size(weights: Iterable[LayerWeights]) -> int:
    """Bytes in flash, equal arrays once."""
    arrays: list[NDArray[Any] | None] = []
    records = set()
    for item in weights:
        arrays += [item.rows, item.columns, item.used]
        for values in item.values.lineage():
            records.add(id(values))
            arrays += [values.codes, values.codebook, values.where, values.starts]
    distinct = {array.tobytes(): array.nbytes for array in arrays if array is not None}
    return sum(distinct.values()) + _RECORD_BYTES * len(records)
