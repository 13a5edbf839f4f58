"""Where the codes of all owners stand in the words of one layer.

Every slot that anybody owns bits of has one word. In it the owners' codes stand in the order of their commits from bit 0, the trunk's first, each
with the width it has there: own codes, residual codes, or the one bit of a plane. Owners of isolation `none` own no bits of a word.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from tsn_toolkit.contracts import LayerCodes, LayerPlanes
from tsn_toolkit.store.layout import CodedLayer
from tsn_toolkit.store.lineage import OwnerLayer
from tsn_toolkit.store.words import Words
from tsn_toolkit.vocabulary import SlotState


@dataclass(frozen=True)
class Field:
    """The codes of one kind that one owner has in the words of one layer.

    Attributes:
        owner: its name.
        slots: int64 (n,), flat index of each slot in C order.
        offsets: uint16 (n,), first bit of each code in its word.
        bits: of each code.
        codes: uint8 (n,), as the owner was decoded.
    """

    owner: str
    slots: NDArray[np.int64]
    offsets: NDArray[np.uint16]
    bits: int
    codes: NDArray[np.uint8]


@dataclass(frozen=True)
class LayerLayout:
    """Where everybody's codes are in the words of one layer.

    Attributes:
        fields: in order of commits; own codes of an owner before its residual codes.
        allocated: uint16 (slots,), bits of each slot that somebody owns.
    """

    fields: tuple[Field, ...]
    allocated: NDArray[np.uint16]

    @cached_property
    def word(self) -> NDArray[np.int64]:
        """Number of each slot's word; meaningless where nobody owns the slot: int64 (slots,)."""
        return np.cumsum(self.allocated > 0) - 1

    @property
    def width(self) -> int:
        """Bits per word."""
        return int(self.allocated.max(initial=0))

    @property
    def count(self) -> int:
        """Number of words."""
        return int(np.count_nonzero(self.allocated))

    def read(self, words: Words, field: Field) -> NDArray[np.uint8]:
        """A field's codes out of the words."""
        return words.read(self.word[field.slots], field.offsets, field.bits)

    def words(self) -> Words:
        """The words, of the codes that the owners were decoded with."""
        words = Words.zeros(self.count, self.width)
        for field in self.fields:
            words.write_(self.word[field.slots], field.offsets, field.codes)
        return words

    def has_free_bit(self, words: Words) -> bool:
        """Whether a bit that nobody owns is set."""
        owned = Words.zeros(self.count, self.width)
        for field in self.fields:
            owned.write_(self.word[field.slots], field.offsets, np.full(len(field.slots), (1 << field.bits) - 1, np.uint8))
        return bool((words.data & ~owned.data).any())


def lay_out(layer: CodedLayer, owners: Iterable[tuple[str, OwnerLayer]]) -> LayerLayout:
    """Places the codes of owners, in order of their commits, into the words of one layer."""
    allocated = np.zeros(layer.size, np.uint16)
    fields = []
    for name, held in owners:
        taken = []
        for slots, bits, codes in _own_codes(held):
            fields.append(Field(name, slots, allocated[slots], bits, codes))
            taken.append((slots, bits))
        for slots, bits in taken:
            allocated[slots] += np.uint16(bits)
    return LayerLayout(tuple(fields), allocated)


def _own_codes(layer: OwnerLayer) -> list[tuple[NDArray[np.int64], int, NDArray[np.uint8]]]:
    """Slots, bits per slot and codes of what an owner holds in a layer, in the order of the blob of values."""
    own, states = layer.own, layer.states.reshape(-1)
    if isinstance(own, LayerPlanes):
        slots = np.flatnonzero(states == SlotState.REFINE)
        return [(slots, 1, own.signs.reshape(-1)[slots].astype(np.uint8))]
    if not isinstance(own, LayerCodes):
        return []
    found = [(np.flatnonzero(states == SlotState.OWN), own.bit_width, own.codes)]
    if own.refinement is not None:
        found.append((np.flatnonzero(states == SlotState.REFINE), own.refinement.bit_width, own.refinement.codes))
    return found
