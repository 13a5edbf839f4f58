"""The least that masks and codes could take: the entropy of the mask bits given the layer and the contexts in use, and of the codes per layer."""

import math

import numpy as np

from tsn_toolkit.contracts import LayerCodes
from tsn_toolkit.numerics.entropy import ideal_bits
from tsn_toolkit.store.layer_blobs import code_runs, known_slots
from tsn_toolkit.store.layout import KeptSlots
from tsn_toolkit.store.lineage import OwnerLayer
from tsn_toolkit.store.masks import mask_entropy_bits
from tsn_toolkit.store.store import Store


def entropy_bytes(store: Store) -> int:
    """Entropy of all masks and codes of a store, in bytes, rounded up; unit masks and everything that is not a mask or a code are left out."""
    return math.ceil(sum(entropy_bits_by_owner(store).values()) / 8)


def entropy_bits_by_owner(store: Store) -> dict[str, float]:
    """Entropy of the masks and codes of each owner's own part, in bits."""
    bits: dict[str, float] = {}
    for layer, owners in store.layers_of_all():
        for name, held in owners:
            kept = store.architecture.kept_slots(store.part(name).unit_masks, layer)
            bits[name] = bits.get(name, 0.0) + _layer_bits(held, kept)
    return bits


def _layer_bits(held: OwnerLayer, kept: KeptSlots) -> float:
    if held.own is None:
        return 0.0
    bits = sum(ideal_bits(np.bincount(codes, minlength=1)) for codes, _ in code_runs(held.own, kept))
    if held.form is not None and isinstance(held.own, LayerCodes):
        refines = held.own.refinement is not None
        bits += mask_entropy_bits(kept.take(held.states), known_slots(held.above, kept), held.form, refines=refines)
    return bits
