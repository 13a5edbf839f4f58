"""What a part holds of one layer, as it was read: values go into the frozen view without being unpacked to one array per slot first.

Fresh memory costs more than what is done with it, so all of this works in place, and temporary arrays are pieces that stay in a cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tsn_toolkit.contracts import LayerCodes, LayerPlanes, Refinement
from tsn_toolkit.numerics.packed_codes import PackedCodes
from tsn_toolkit.store.layout import KeptSlots
from tsn_toolkit.vocabulary import MAX_CODE, SlotState

_CHUNK = 1 << 14
"""Entries whose positions are found at a time: 128 KiB."""

_PLANE_CHUNK = 1 << 15
"""Slots of a plane that are added at a time, more where eight rows are longer."""

_BYTE = 8


@dataclass(frozen=True)
class ReadResiduals:
    """Residual codes of the REFINE slots, as in `Refinement`."""

    codes: PackedCodes
    codebook: NDArray[np.int8]
    bit_width: int


@dataclass(frozen=True)
class ReadCodes:
    """Own codes, as in `LayerCodes`; states stand elsewhere."""

    codes: PackedCodes
    codebook: NDArray[np.int8]
    bit_width: int
    scale: NDArray[np.float32]
    residuals: ReadResiduals | None = None

    def unpacked(self, states: NDArray[np.uint8]) -> LayerCodes:
        """The same as the contract has it, with states of the shape of the weight."""
        refinement = None
        if self.residuals is not None:
            refinement = Refinement(self.residuals.codes.codes(), self.residuals.codebook, self.residuals.bit_width)
        return LayerCodes(states, self.codes.codes(), self.codebook, self.bit_width, self.scale, refinement=refinement)

    def values(self) -> NDArray[np.int8]:
        """q of the OWN slots: int8 (n_own,)."""
        return self.codes.values(self.codebook) if self.codes.count else np.zeros(0, np.int8)

    def put_(self, view: NDArray[np.int8], patches: NDArray[np.uint8]) -> None:
        """Changes the parent's frozen view into the owner's, in place.

        Args:
            view: int8, shape of the weight, contiguous.
            patches: uint8 (n,), state of every n-th part of the slots in C order.
        """
        values, grain = self.values(), view.size // len(patches)
        flat: NDArray[np.generic] = view.reshape(-1)
        if grain > 1:
            flat, values = flat.view(f"V{grain}"), values.view(f"V{grain}")  # a patch is moved as one item
        for part, places, taken in _places(patches, SlotState.OWN):
            flat[part][places] = values[taken]
        if self.residuals is None:
            return
        slots, states = view.reshape(-1), np.repeat(patches, grain)
        residuals = self.residuals.codes.values(self.residuals.codebook)
        for part, places, taken in _places(states, SlotState.REFINE):
            refined = np.add(slots[part][places], residuals[taken], dtype=np.int16)
            slots[part][places] = np.clip(refined, -MAX_CODE, MAX_CODE)


@dataclass(frozen=True)
class ReadPlane:
    """Signs of the kept slots, as in `LayerPlanes`."""

    signs: PackedCodes
    kept: KeptSlots
    gain: NDArray[np.int8]
    scale: NDArray[np.float32]

    def unpacked(self, _: NDArray[np.uint8]) -> LayerPlanes:
        """The same as the contract has it."""
        return LayerPlanes(self.kept.spread(self.signs.codes().view(np.bool_)), self.gain, self.scale)

    def put_(self, view: NDArray[np.int8], patches: NDArray[np.uint8]) -> None:
        """Changes the parent's frozen view, or zeros, into the owner's, in place; see `ReadCodes.put_`.

        q + gain where the sign is set, else q - gain, clipped. All stays in int8: q is first brought within what the sum can take.
        """
        rows = view.reshape(len(view), -1)
        length = rows.shape[1]
        signs = used = None
        if self.kept.kept:
            signs = self.kept.spread(self.signs.codes()).reshape(rows.shape)
            used = np.repeat(patches != SlotState.PRUNED, view.size // len(patches)).reshape(rows.shape)
        step = _BYTE * max(1, _PLANE_CHUNK // (_BYTE * max(length, 1)))  # so that a piece begins with a byte of signs
        for first in range(0, len(rows), step):
            q = rows[first : first + step]
            plus = self.signs.bits(first * length, first * length + q.size).reshape(q.shape) if signs is None else signs[first : first + step]
            gain = self.gain[first : first + step, None]
            if used is not None:
                gain = gain * used[first : first + step]
            raised = plus.view(np.int8) * gain
            np.maximum(q, gain - MAX_CODE - raised, out=q)
            np.minimum(q, MAX_CODE - raised, out=q)
            q += raised
            q -= gain
            q += raised


Read = ReadCodes | ReadPlane


def _places(states: NDArray[np.uint8], state: SlotState) -> Iterator[tuple[slice, NDArray[np.intp], slice]]:
    """Where a state stands: pieces of the entries, positions in each, and which of all entries with that state these are."""
    number, taken = np.uint8(state), 0  # a comparison with a member of an enumeration costs more than a piece
    for start in range(0, len(states), _CHUNK):
        part = slice(start, start + _CHUNK)
        places = (states[part] == number).nonzero()[0]
        if len(places):
            yield part, places, slice(taken, taken + len(places))
            taken += len(places)
