"""Whose bits the words of one layer hold, and whose weights they take part in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tsn_toolkit.store.joint_layout import LayerLayout
from tsn_toolkit.store.lineage import OwnerLayer
from tsn_toolkit.vocabulary import SlotState


@dataclass(frozen=True)
class LayerOwners:
    """One layer of a joint image. A slot is a flat index in C order, bit 0 of its word the least significant.

    Attributes:
        layout: where everybody's codes are.
        held: owner -> what it has in the layer.
    """

    layout: LayerLayout
    held: Mapping[str, OwnerLayer]

    def owner_of(self, slot: int, bit: int) -> str | None:
        """Who owns a bit of a slot's word; None where nobody does."""
        for codes in self.layout.fields:
            place = int(np.searchsorted(codes.slots, slot))
            if place < len(codes.slots) and codes.slots[place] == slot and 0 <= bit - int(codes.offsets[place]) < codes.bits:
                return codes.owner
        return None

    def sources_of(self, chain: Sequence[str], slot: int) -> set[str]:
        """Owners whose bits a task's weight at a slot is made of.

        Args:
            chain: the task's lineage, the trunk first, the task last.
            slot: of the weight.
        """
        if self.held[chain[-1]].states.reshape(-1)[slot] == SlotState.PRUNED:
            return set()
        found: set[str] = set()
        for name in reversed(chain):
            held = self.held[name]
            state = held.states.reshape(-1)[slot]
            if held.own is not None and state in (SlotState.OWN, SlotState.REFINE):
                found.add(name)
                if state == SlotState.OWN:
                    break
        return found
