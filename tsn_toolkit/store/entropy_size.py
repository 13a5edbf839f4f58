"""The least that masks and codes could take: the entropy of the mask symbols given the layer and the context in use, and of the codes per layer."""

import math

import numpy as np

from tsn_toolkit.numerics.entropy import ideal_bits
from tsn_toolkit.store.lineage import slot_context
from tsn_toolkit.store.store import Store
from tsn_toolkit.store.symbols import count_symbols
from tsn_toolkit.vocabulary import TRUNK


def entropy_bytes(store: Store) -> int:
    """Entropy of all masks and codes of a store, in bytes, rounded up; unit masks and everything that is not a mask or a code are left out."""
    return math.ceil(sum(owner_entropy_bits(store, owner) for owner in (TRUNK, *(entry.name for entry in store.entries))) / 8)


def owner_entropy_bits(store: Store, name: str) -> float:
    """Entropy of the masks and codes of one owner's own part, in bits."""
    owner = store.decoded(name)
    bits = 0.0
    for layer in store.architecture.layers:
        own = owner.layers[layer.name]
        if own.codes is None:
            continue
        bits += ideal_bits(np.bincount(own.codes.codes, minlength=1))
        if owner.parent is not None and own.depth is not None:
            kept = store.architecture.kept_slots(owner.unit_masks, layer)
            context = slot_context(owner.parent, layer, kept)
            bits += ideal_bits(count_symbols(context.numbers(own.depth), own.states[kept], own.depth))
    return bits
