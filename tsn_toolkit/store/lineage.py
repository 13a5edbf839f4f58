"""What an owner holds at one layer, and what its children inherit.

The frozen view of an owner at a slot is the value owned by the nearest of the owner itself, its parent, ... the trunk. What a task answers with is
that view wherever the task is not PRUNED: an OWN slot shows its own value there, a REUSE slot its parent's, a REFINE slot its parent's plus its own
residual. A `planes` layer refines at every kept slot; where nobody owns the slot, it refines 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from tsn_toolkit.contracts import LayerCodes, LayerPlanes
from tsn_toolkit.numerics.lookup import look_up
from tsn_toolkit.store.known_slots import KnownSlots
from tsn_toolkit.store.layout import CodedLayer, KeptSlots
from tsn_toolkit.store.mask_forms import MaskForm
from tsn_toolkit.store.own_values import Read, ReadCodes
from tsn_toolkit.store.part import PartError
from tsn_toolkit.vocabulary import SlotState

_CHUNK = 1 << 15
"""Slots handled at a time: few enough for temporary arrays to stay in a processor's cache."""

_PRUNED, _OWN = np.uint8(SlotState.PRUNED), np.uint8(SlotState.OWN)


@dataclass(frozen=True)
class Inherited:
    """One layer as a child of an owner finds it.

    Attributes:
        q: int8, shape of the weight; the frozen view, 0 where nobody owns the slot.
        known: of all slots of the layer.
        scale: float32 (out_channels,); that of a dead unit is the one inherited, 0 where there is none. None while no owner has the layer.
    """

    q: NDArray[np.int8]
    known: KnownSlots
    scale: NDArray[np.float32] | None

    @property
    def present(self) -> NDArray[np.bool_]:
        """Where the view holds a value: bool, shape of the weight."""
        return self.known.refined(1).present.reshape(self.q.shape)


@dataclass(frozen=True)
class OwnerLayer:
    """One layer of one owner, decoded.

    Attributes:
        above: what the owner inherited.
        patches: uint8 (n,), what the owner does at each n-th part of the slots in C order, also where the layer is `shared`.
        read: the owner's own codes or planes as read; None for a `shared` layer and for a seed trunk.
        kept_outputs: bool (out_channels,), which units are kept.
        form: how the file holds the mask; None where it holds none.
    """

    above: Inherited
    patches: NDArray[np.uint8]
    read: Read | None
    kept_outputs: NDArray[np.bool_]
    form: MaskForm | None = None

    @property
    def grain(self) -> int:
        """Slots of each patch."""
        return self.above.q.size // max(len(self.patches), 1)

    @cached_property
    def states(self) -> NDArray[np.uint8]:
        """What the owner does at each slot: uint8, shape of the weight."""
        states = self.patches if self.grain == 1 else np.repeat(self.patches, self.grain)
        return states.reshape(self.above.q.shape)

    @cached_property
    def own(self) -> LayerCodes | LayerPlanes | None:
        """The owner's own codes or planes; None for a `shared` layer and for a seed trunk."""
        return None if self.read is None else self.read.unpacked(self.states)

    @property
    def codes(self) -> LayerCodes | None:
        """The owner's own codes; None where the layer is not of encoding `codes`."""
        return self.own if isinstance(self.own, LayerCodes) else None

    @property
    def own_bits(self) -> int:
        """Bits per own code: 1 of a plane, 0 where nothing is the owner's own."""
        return self.read.bit_width if isinstance(self.read, ReadCodes) else int(self.read is not None)

    @property
    def q(self) -> NDArray[np.int8]:
        """What the owner answers with: int8, shape of the weight, 0 where pruned; may be shared with the view."""
        used = self.states != SlotState.PRUNED
        return self.view if used.all() else np.multiply(self.view, used)

    @cached_property
    def view(self) -> NDArray[np.int8]:
        """The frozen view that the owner hands to its children: int8, shape of the weight."""
        return self._view(self.above.q, in_place=False)

    @cached_property
    def scale(self) -> NDArray[np.float32] | None:
        """float32 (out_channels,); that of a dead unit is the one inherited. None while no owner has the layer."""
        if self.read is None:
            return self.above.scale
        inherited = np.float32(0) if self.above.scale is None else self.above.scale
        return np.where(self.kept_outputs, self.read.scale, inherited)

    @cached_property
    def below(self) -> Inherited:
        """What the owner's children inherit."""
        return Inherited(self.view, self._known(in_place=False), self.scale)

    def pass_on_(self) -> Inherited:
        """What the owner's children inherit, made out of what it inherited itself, which nobody may use afterwards."""
        return Inherited(self._view(self.above.q, in_place=True), self._known(in_place=True), self.scale)

    def weights_(self, out: NDArray[np.float32]) -> None:
        """Writes scale[output] * q into `out`, float32 with the shape of the weight. What the owner inherited may not be used afterwards."""
        view = self._view(self.above.q, in_place=True).reshape(len(out), -1)
        scale = np.zeros(len(out), np.float32) if self.scale is None else self.scale
        used, weights = self.patches != SlotState.PRUNED, out.reshape(len(out), -1)
        # Over nothing the view is 0 wherever the owner is PRUNED.
        patches = None if self.above.scale is None or used.all() else used.view(np.int8).reshape(len(out), -1)
        step = max(1, _CHUNK // max(view.shape[1], 1))
        for first in range(0, len(view), step):
            rows = slice(first, first + step)
            q = view[rows] if patches is None else view[rows] * np.repeat(patches[rows], self.grain, axis=1)
            np.multiply(q, scale[rows, None], out=weights[rows])

    @property
    def allocated(self) -> NDArray[np.uint8]:
        """Bits of each slot's word that the owner allocated: shape of the weight."""
        if self.own is None:
            return np.zeros(self.states.shape, np.uint8)
        if isinstance(self.own, LayerPlanes):
            return np.asarray(self.states == SlotState.REFINE, np.uint8)
        refine = 0 if self.own.refinement is None else self.own.refinement.bit_width
        return look_up(self.states, np.array([0, 0, self.own.bit_width, refine], np.uint8))

    def _view(self, inherited: NDArray[np.int8], *, in_place: bool) -> NDArray[np.int8]:
        if self.read is None:
            return inherited
        if isinstance(self.read, ReadCodes) and self.read.codes.count == inherited.size:
            return self.read.values().reshape(inherited.shape)
        view = inherited if in_place and inherited.flags.writeable else inherited.copy()
        self.read.put_(view, self.patches)
        return view

    def _known(self, *, in_place: bool) -> KnownSlots:
        """What is known of the slots below the owner."""
        grain = math.gcd(self.above.known.grain, self.grain)
        known = self.above.known.refined(grain)
        if known is self.above.known and not in_place:
            known = KnownSlots(known.present.copy(), known.history.copy(), known.row_length, known.grain)
        states = self.patches if grain == self.grain else np.repeat(self.patches, self.grain // grain)
        for start in range(0, len(states), _CHUNK):
            part = slice(start, start + _CHUNK)
            known.present[part] |= states[part] >= _OWN
            self._remember_(known.history[part], states[part])
        return known

    def _remember_(self, history: NDArray[np.uint8], states: NDArray[np.uint8]) -> None:
        history >>= np.uint8(1)
        history |= (states != _PRUNED).view(np.uint8) << np.uint8(7)


@dataclass(frozen=True)
class TrunkLayer(OwnerLayer):
    """One layer of the trunk: it owns every slot or none, and does not count as an ancestor that uses slots."""

    def _remember_(self, history: NDArray[np.uint8], states: NDArray[np.uint8]) -> None:
        pass


def nothing(layer: CodedLayer) -> Inherited:
    """A layer that nobody owns yet, as below any trunk."""
    rows, length = layer.shape[0], math.prod(layer.shape[1:])
    zero: NDArray[np.int8] = np.broadcast_to(np.int8(0), layer.shape)  # one byte of memory
    return Inherited(zero, KnownSlots(np.zeros(rows, np.bool_), np.zeros(rows, np.uint8), 1, length), None)


def known_patches(above: Inherited, kept: KeptSlots) -> KnownSlots:
    """What is known of a layer's kept slots before the owner's own mask, in the largest patches of which that is the same."""
    grain = math.gcd(above.known.grain, kept.grain)
    patches = kept.in_patches(grain)
    if above.scale is None:
        return KnownSlots(np.zeros(patches.size, np.bool_), np.zeros(patches.size, np.uint8), kept.row_length // grain, grain)
    known = above.known.refined(grain)
    return KnownSlots(patches.take(known.present), patches.take(known.history), kept.row_length // grain, grain)


def shared_patches(above: Inherited, layer: CodedLayer, kept: KeptSlots) -> NDArray[np.uint8]:
    """States of the patches of a `shared` layer: the parent's frozen view inside the kept units.

    Raises:
        PartError: no ancestor has the layer.
    """
    if above.scale is None:
        raise PartError(f"layer `{layer.name}` is shared, but neither the trunk nor an ancestor holds it")
    known = known_patches(above, kept)
    return kept.in_patches(known.grain).spread(known.present).view(np.uint8).reshape(-1)  # True is REUSE
