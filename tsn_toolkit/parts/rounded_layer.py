"""A trained weight as codes after training: one scale per output channel, one codebook per layer, fitted on the weights that are not pruned."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tsn_toolkit.contracts import LayerCodes
from tsn_toolkit.numerics.kmeans import assign_codes, fit_codebook
from tsn_toolkit.numerics.vectors import round_vector
from tsn_toolkit.vocabulary import SlotState, VectorPrecision

SMALLEST_ROW = 1e-3
"""No channel's scale is finer than this fraction of the layer's coarsest; weights this small do not matter beside the others."""


def round_layer(
    weight: NDArray[np.float32], *, bit_width: int, max_code: int, precision: VectorPrecision, kept: NDArray[np.bool_] | None = None
) -> LayerCodes:
    """Every kept slot of one weight as an own code, every other slot pruned.

    Args:
        weight: float32 (out, ...).
        bit_width: bits per code, 1..8; 8 bits hold every integer.
        max_code: largest |q|; a channel's largest kept weight maps to it.
        precision: of the scales.
        kept: bool, shape of the weight; None: all.
    """
    kept = np.ones(weight.shape, np.bool_) if kept is None else kept
    rows = np.abs(np.where(kept, weight, 0)).reshape(len(weight), -1).max(axis=1)
    floor = max(float(rows.max(initial=0)), 1e-8) * SMALLEST_ROW
    scale = round_vector((np.maximum(rows, floor) / max_code).astype(np.float32), precision)
    q = weight.astype(np.float64) / scale.astype(np.float64).reshape(-1, *([1] * (weight.ndim - 1)))
    values = np.clip(q, -max_code, max_code)[kept]
    bit_width = bit_width if values.size else 0
    codebook = fit_codebook(values, bit_width, max_code)
    codes = assign_codes(values, codebook) if bit_width else np.zeros(0, np.uint8)
    states = np.where(kept, SlotState.OWN, SlotState.PRUNED).astype(np.uint8)
    return LayerCodes(states=states, codes=codes, codebook=codebook, bit_width=bit_width, scale=scale)
