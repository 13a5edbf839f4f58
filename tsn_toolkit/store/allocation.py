"""Who owns the bits of each slot's word, by layer."""

from dataclasses import dataclass

import numpy as np

from tsn_toolkit.store.store import Store


@dataclass(frozen=True)
class LayerAllocation:
    """The words of one layer.

    Attributes:
        slots: number of words.
        word_bits: bits of each.
        allocated: bits that somebody owns -> number of slots with as many; ascending, only what occurs.
        by_owner: the trunk and each task -> bits that it owns in the layer; owners without a bit are left out.
    """

    slots: int
    word_bits: int
    allocated: dict[int, int]
    by_owner: dict[str, int]

    @property
    def free_bits(self) -> int:
        """Bits that nobody owns."""
        return self.slots * self.word_bits - sum(self.by_owner.values())


def allocation(store: Store) -> dict[str, LayerAllocation]:
    """Per layer which bits of its words are taken, and by whom. Tasks of isolation `none` stand beside the words and own none of their bits.

    Raises:
        StoreError: a part is damaged.
    """
    beside = {entry.name for entry in store.entries if entry.isolation == "none"}
    layers = {}
    for layer, owners in store.layers_of_all():
        taken = np.zeros(layer.shape, np.uint16)
        by_owner = {}
        for name, held in owners:
            if name not in beside and held.own is not None:
                taken += held.allocated
                by_owner[name] = int(held.allocated.sum(dtype=np.int64))
        counts = np.bincount(taken.reshape(-1))
        allocated = {int(bits): int(counts[bits]) for bits in np.flatnonzero(counts)}
        layers[layer.name] = LayerAllocation(
            layer.size, store.architecture.word_bits, allocated, {name: bits for name, bits in by_owner.items() if bits}
        )
    return layers
