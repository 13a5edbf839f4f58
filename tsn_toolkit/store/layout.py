"""The architecture record: all that a part needs to be decoded without the user's model.

From it follow, for given unit masks, which slots of a layer and which entries of a vector are stored at all: an index whose unit is dead is not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from tsn_toolkit.contracts import FreeParameterRecord, GroupMember
from tsn_toolkit.store.part import PartError

MAX_SLOTS = 1 << 28
"""Most weights of one model; a damaged record may not ask for more memory than this."""

MAX_LENGTH = 1 << 24
"""Most entries of one vector and most features of a head."""

UnitMasks = Mapping[str, NDArray[np.bool_]]
NamedLengths = tuple[tuple[str, int], ...]

_Entry = TypeVar("_Entry", bound=np.generic)

_VECTOR_SUFFIXES = ("weight", "bias", "running_mean", "running_var")


@dataclass(frozen=True)
class CodedLayer:
    """A layer whose weight the store codes: module path and weight shape."""

    name: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of slots."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class KeptSlots:
    """The slots of a weight that no dead unit takes away: a box, some indices of each dimension.

    Attributes:
        full: shape of the weight.
        kept: dimension -> indices kept, bool (length,); a dimension left out keeps all.
    """

    full: tuple[int, ...]
    kept: Mapping[int, NDArray[np.bool_]]

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Kept indices of each dimension."""
        return tuple(int(np.count_nonzero(self.kept[dim])) if dim in self.kept else length for dim, length in enumerate(self.full))

    @cached_property
    def size(self) -> int:
        """Number of kept slots."""
        return math.prod(self.shape)

    @property
    def row_length(self) -> int:
        """Kept slots of one output channel."""
        return math.prod(self.shape[1:])

    @property
    def grain(self) -> int:
        """Consecutive slots of a row that are kept or dropped together."""
        return math.prod(self.full[max(self.kept, default=0) + 1 :])

    def in_patches(self, grain: int) -> KeptSlots:
        """The same of patches of so many consecutive slots, a divisor of `self.grain`."""
        first = max(self.kept, default=0) + 1
        return KeptSlots((*self.full[:first], self.grain // grain), self.kept)

    @property
    def outputs(self) -> NDArray[np.bool_]:
        """Output channels that are kept: bool (out_channels,)."""
        return self.kept[0] if 0 in self.kept else np.ones(self.full[0], np.bool_)

    def take(self, array: NDArray[_Entry]) -> NDArray[_Entry]:
        """The kept entries of an array with as many entries as the weight: (size,), C order; a view where all are kept."""
        array = array.reshape(self.full)
        for dim, kept in self.kept.items():
            array = array.take(np.flatnonzero(kept), axis=dim)
        return array.reshape(-1)

    def spread(self, values: NDArray[_Entry]) -> NDArray[_Entry]:
        """The inverse of `take`: kept entries from `values` (size,), all others 0."""
        array, shape = values.reshape(self.shape), list(self.shape)
        for dim, kept in reversed(tuple(self.kept.items())):
            shape[dim] = len(kept)
            wider = np.zeros(shape, values.dtype)
            wider[(slice(None),) * dim + (np.flatnonzero(kept),)] = array
            array = wider
        return array


@dataclass(frozen=True)
class StoredGroup:
    """A unit group as the record keeps it: name, number of units, parameter dimensions that carry its units."""

    name: str
    size: int
    members: tuple[GroupMember, ...]


@dataclass(frozen=True)
class Architecture:
    """The record itself.

    Attributes:
        fingerprint: of the model.
        input_shape: of one example, without batch.
        head: module path of the classifier.
        head_features: its input features.
        layers: coded layers in execution order, the head left out.
        norms: (module path, length) of the trunk's norms.
        biases: (module path, length) of the trunk's biases.
        groups: unit groups in execution order.
        word_bits: bits of one slot's word, for the trunk and all tasks together.
        free_parameters: in the module's order.
    """

    fingerprint: str
    input_shape: tuple[int, ...]
    head: str
    head_features: int
    layers: tuple[CodedLayer, ...]
    norms: NamedLengths
    biases: NamedLengths
    groups: tuple[StoredGroup, ...]
    word_bits: int
    free_parameters: tuple[FreeParameterRecord, ...] = ()

    @cached_property
    def size(self) -> int:
        """Number of slots of all coded layers."""
        return sum(layer.size for layer in self.layers)

    @cached_property
    def _members(self) -> dict[tuple[str, int], list[tuple[str, NDArray[np.int64]]]]:
        index: dict[tuple[str, int], list[tuple[str, NDArray[np.int64]]]] = {}
        for group in self.groups:
            for member in group.members:
                index.setdefault((member.parameter, member.dim), []).append((group.name, member.unit))
        return index

    def kept_along(self, masks: UnitMasks, parameter: str, dim: int, length: int) -> NDArray[np.bool_]:
        """Which indices of one dimension of a parameter belong to no dead unit: bool (length,).

        Raises:
            PartError: the record gives this dimension another length.
        """
        kept = np.ones(length, np.bool_)
        for group, unit in self._members.get((parameter, dim), ()):
            if len(unit) != length:
                raise PartError(f"dimension {dim} of `{parameter}` has {len(unit)} entries in group `{group}`, expected {length}")
            if group in masks:
                kept &= np.where(unit >= 0, masks[group][np.maximum(unit, 0)], True)
        return kept

    def kept_slots(self, masks: UnitMasks, layer: CodedLayer) -> KeptSlots:
        """Slots of a layer whose output and input units are all kept."""
        if not masks:
            return KeptSlots(layer.shape, {})
        return self.kept_of(masks, f"{layer.name}.weight", layer.shape)

    def kept_of(self, masks: UnitMasks, parameter: str, shape: tuple[int, ...]) -> KeptSlots:
        """Entries of a parameter that no dead unit takes away.

        Raises:
            PartError: the record gives a dimension another length.
        """
        along = {dim: self.kept_along(masks, parameter, dim, length) for dim, length in enumerate(shape) if (parameter, dim) in self._members}
        return KeptSlots(shape, {dim: kept for dim, kept in along.items() if not kept.all()})

    def kept_entries(self, masks: UnitMasks, module: str, length: int) -> NDArray[np.bool_]:
        """Entries of a per-unit vector (norm or bias) of a module whose units are kept: bool (length,)."""
        suffixes = ("bias", *_VECTOR_SUFFIXES)
        parameter = next((name for name in (f"{module}.{s}" for s in suffixes) if (name, 0) in self._members), module)
        return self.kept_along(masks, parameter, 0, length)

    def kept_features(self, masks: UnitMasks) -> NDArray[np.bool_]:
        """Input features of the head whose units are kept: bool (head_features,)."""
        return self.kept_along(masks, f"{self.head}.weight", 1, self.head_features)


def essential_members(members: tuple[GroupMember, ...]) -> tuple[GroupMember, ...]:
    """Drops members that repeat another: a bias or running statistic beside a weight of the same module with the same units along dimension 0."""
    weights = {m.parameter.removesuffix(".weight"): m.unit for m in members if m.dim == 0 and m.parameter.endswith(".weight")}

    def repeats(member: GroupMember) -> bool:
        module, _, suffix = member.parameter.rpartition(".")
        return suffix in _VECTOR_SUFFIXES[1:] and member.dim == 0 and module in weights and np.array_equal(weights[module], member.unit)

    return tuple(member for member in members if not repeats(member))
