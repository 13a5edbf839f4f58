"""Whether a part that was just encoded holds what was handed over, field by field."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tsn_toolkit.contracts import FrozenParameter, LayerCodes, LayerPlanes, TaskResult
from tsn_toolkit.errors import StoreError
from tsn_toolkit.store.free_parameters import answered_with, overlaid
from tsn_toolkit.store.lineage import OwnerLayer
from tsn_toolkit.store.owner_part import OwnerPart


def check_part(part: OwnerPart, result: TaskResult, recipe: Mapping[str, Any], free: Mapping[str, FrozenParameter]) -> None:
    """Compares all of a task but its layers.

    Args:
        part: the opened part of the task.
        result: the task.
        recipe: what differs from the parent's.
        free: free parameters that it inherits, by name.

    Raises:
        StoreError: a field does not read back.
    """
    for field, same in (*_fields(part, result, recipe), ("free_parameters", _same_free(part, result, free))):
        if not same:
            raise not_read_back(result.name, field)


def check_layer(held: OwnerLayer, result: TaskResult, layer: str) -> None:
    """Compares one layer; scales only of the units that are kept.

    Raises:
        StoreError: it does not read back.
    """
    own, stored = result.layers.get(layer), held.own
    if isinstance(own, LayerCodes):
        same = isinstance(stored, LayerCodes) and all(_same_codes(own, stored, held.kept_outputs))
    elif isinstance(own, LayerPlanes):
        same = isinstance(stored, LayerPlanes) and all(_same_planes(own, stored, held.kept_outputs))
    else:
        same = stored is None
    if not same:
        raise not_read_back(result.name, f"layer `{layer}`")


def not_read_back(task: str, field: str) -> StoreError:
    """What is said of a field that does not read back."""
    return StoreError(
        f"task `{task}`: {field} does not read back from its part as it was handed over. Nothing is written; this is a fault of the store's encoder, "
        "please report it."
    )


def _fields(part: OwnerPart, result: TaskResult, recipe: Mapping[str, Any]) -> Iterator[tuple[str, bool]]:
    metadata = part.metadata
    for name in ("name", "parent", "isolation", "strategy"):
        yield name, metadata[name] == getattr(result, name)
    yield "classes", part.classes == tuple(int(label) for label in result.classes)
    yield "validation", metadata["validation"] == {name: float(value) for name, value in result.validation.items()}
    yield "recipe", metadata["recipe"] == recipe
    yield "unit_masks", _same_arrays(part.unit_masks, result.unit_masks)
    for vector in ("gain", "shift"):
        stored, norms = ({name: getattr(norm, vector) for name, norm in held.items()} for held in (part.norms(), result.norms))
        yield f"{vector} of norms", _same_arrays(stored, norms)
    yield "biases", _same_arrays(part.biases(), result.biases)
    yield "head", _same_arrays(vars(part.head()), vars(result.head))
    yield "ranges", part.ranges() == dict(result.ranges)
    revision = part.revision()
    if revision is None or result.revision is None:
        yield "revision", revision is result.revision
        return
    yield "rows of its revision", list(revision.rows.items()) == [(task, tuple(rows)) for task, rows in result.revision.rows.items()]
    yield "task_known of its revision", revision.task_known == result.revision.task_known
    yield "memory of its revision", _same_arrays(revision.memory, result.revision.memory)


def _same_free(part: OwnerPart, result: TaskResult, inherited: Mapping[str, FrozenParameter]) -> bool:
    """Whether the task will answer with the free parameters that it was handed over with, its own and inherited ones."""
    answers = answered_with(overlaid(inherited, part.architecture, part.unit_masks, part.free_parameters()), part.architecture, part.unit_masks)
    return _same_arrays({name: answers[name] for name in result.free_parameters}, result.free_parameters)


def _same_codes(own: LayerCodes, stored: LayerCodes, kept: NDArray[np.bool_]) -> Iterator[bool]:
    yield own.bit_width == stored.bit_width
    yield np.array_equal(own.states, stored.states)
    yield np.array_equal(own.codes, stored.codes)
    yield np.array_equal(own.codebook, stored.codebook)
    yield np.array_equal(own.scale[kept], stored.scale[kept])
    if own.refinement is None or stored.refinement is None:
        yield own.refinement is stored.refinement
    else:
        yield own.refinement.bit_width == stored.refinement.bit_width
        yield _same_arrays(
            {"codes": own.refinement.codes, "codebook": own.refinement.codebook},
            {"codes": stored.refinement.codes, "codebook": stored.refinement.codebook},
        )


def _same_planes(own: LayerPlanes, stored: LayerPlanes, kept: NDArray[np.bool_]) -> Iterator[bool]:
    yield np.array_equal(own.signs, stored.signs)
    yield np.array_equal(own.gain, stored.gain)
    yield np.array_equal(own.scale[kept], stored.scale[kept])


def _same_arrays(one: Mapping[str, NDArray[Any]], other: Mapping[str, NDArray[Any]]) -> bool:
    """Whether both have the same names, kinds of numbers, shapes and values; what is no number is the same as itself."""
    return set(one) == set(other) and all(
        one[name].dtype.name == other[name].dtype.name and np.array_equal(one[name], other[name], equal_nan="float" in one[name].dtype.name)
        for name in one
    )
