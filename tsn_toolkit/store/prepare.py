"""A task made ready for its commit: checked, encoded, read back, and its bits found free. Nothing is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tsn_toolkit.contracts import FrozenParameter, TaskResult
from tsn_toolkit.store.checks import check_task, check_word
from tsn_toolkit.store.lineage import Inherited
from tsn_toolkit.store.owner_part import OwnerPart
from tsn_toolkit.store.part import bytes_source, open_part
from tsn_toolkit.store.part_files import PartFiles
from tsn_toolkit.store.read_back import check_layer, check_part, not_read_back
from tsn_toolkit.store.task_part import encode_task, open_task
from tsn_toolkit.store.walk import walk_all

_MOST_BITS = 8
"""Most bits of one slot that one owner takes."""

Allocated = dict[str, NDArray[np.uint16]]
"""By layer, bits of each slot's word that are taken: shape of the weight."""


@dataclass(frozen=True)
class Prepared:
    """A task that may be committed.

    Attributes:
        data: bytes of its part.
        below: what its children will inherit, by layer.
        asked: bits of each slot that it takes, by layer; empty where it takes none of the words.
    """

    data: bytes
    below: dict[str, Inherited]
    asked: dict[str, NDArray[np.uint8]]


@dataclass(frozen=True)
class Handed:
    """What a task's parent hands down.

    Attributes:
        parent: the opened part of the parent.
        layers: by name.
        free: free parameters, by name.
    """

    parent: OwnerPart
    layers: Mapping[str, Inherited]
    free: Mapping[str, FrozenParameter]


def encode_checked(handed: Handed, result: TaskResult, recipe: Mapping[str, Any]) -> bytes:
    """The bytes of a result's part; `recipe` is what differs from the parent's.

    Raises:
        StoreError: the result cannot be stored.
    """
    architecture = handed.parent.architecture
    check_task(architecture, handed.layers, handed.free, result)
    return encode_task(architecture, handed.parent, handed.layers, handed.free, result, recipe)


def prepare(handed: Handed, result: TaskResult, recipe: Mapping[str, Any], allocated: Allocated | None) -> Prepared:
    """Makes a task ready.

    Args:
        handed: what it inherits.
        result: the task.
        recipe: what differs from the parent's.
        allocated: of the words so far; None where no word can run out, or the task takes no bits of them.

    Raises:
        StoreError: the result cannot be stored, or a word runs out, or the part does not read back as the result.
    """
    data = encode_checked(handed, result, recipe)
    try:
        below, asked = _read_back(data, handed, result, recipe, allocated)
    except ValueError as error:  # what reading a part raises where its bytes break the format
        raise not_read_back(result.name, f"its part ({error})") from error
    return Prepared(data, below, asked)


def _read_back(
    data: bytes, handed: Handed, result: TaskResult, recipe: Mapping[str, Any], allocated: Allocated | None
) -> tuple[dict[str, Inherited], dict[str, NDArray[np.uint8]]]:
    """What children inherit and what is asked of the words, by layer, from a part that is compared with the result as it is read."""
    parent, above = handed.parent, handed.layers
    part = open_task(parent.architecture, parent, open_part(bytes_source(data), len(data)))
    check_part(part, result, recipe, handed.free)
    below, asked = {}, {}
    source = part.read_layers()
    for layer in parent.architecture.layers:
        held = source.next(layer, above[layer.name])
        check_layer(held, result, layer.name)
        below[layer.name] = held.below
        if allocated is not None and held.own is not None:
            asked[layer.name] = held.allocated
            check_word(result.name, layer.name, asked[layer.name], allocated[layer.name], parent.architecture.word_bits)
    source.finish()
    return below, asked


def count_allocated(files: PartFiles) -> Allocated:
    """Bits of every word that are taken, over the trunk and ALL tasks, related or not. Revisions of isolation `none` stand beside the words."""
    beside = {entry.name for entry in files.manifest.entries if entry.isolation == "none"}
    allocated = {}
    for layer, owners in walk_all(files):
        allocated[layer.name] = np.zeros(layer.shape, np.uint16)
        for name, held in owners:
            if name not in beside and held.own is not None:
                allocated[layer.name] += held.allocated
    return allocated


def cannot_run_out(files: PartFiles, word_bits: int) -> bool:
    """Whether even a task that takes all it can at every slot finds room, as all owners before it did."""
    return (len(files.owners) + 1) * _MOST_BITS <= word_bits
