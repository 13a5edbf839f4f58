"""The architecture record: all that a part needs to be decoded without the user's model.

From it follow, for given unit masks, which slots of a layer and which entries of a vector are stored at all: an index whose unit is dead is not.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from tsn_toolkit.contracts import GroupMember
from tsn_toolkit.store.part import PartError

MAX_SLOTS = 1 << 28
"""Most weights of one model; a damaged record may not ask for more memory than this."""

MAX_LENGTH = 1 << 24
"""Most entries of one vector and most features of a head."""

UnitMasks = Mapping[str, NDArray[np.bool_]]
NamedLengths = tuple[tuple[str, int], ...]

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

    def kept_slots(self, masks: UnitMasks, layer: CodedLayer) -> NDArray[np.bool_]:
        """Slots of a layer whose output and input units are all kept: bool, shape of the weight."""
        kept = np.ones(layer.shape, np.bool_)
        for dim, length in enumerate(layer.shape):
            along = self.kept_along(masks, f"{layer.name}.weight", dim, length)
            kept &= along.reshape([-1 if axis == dim else 1 for axis in range(len(layer.shape))])
        return kept

    def kept_outputs(self, masks: UnitMasks, layer: CodedLayer) -> NDArray[np.bool_]:
        """Output channels of a layer whose units are kept: bool (out_channels,)."""
        return self.kept_along(masks, f"{layer.name}.weight", 0, layer.shape[0])

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
