"""What an owner holds at one layer, and what its children inherit.

The frozen view of an owner at a slot is the value owned by the nearest of the owner itself, its parent, ... the trunk. What a task answers with is
that view wherever the task is not PRUNED: an OWN slot shows its own value there, a REUSE slot its parent's, a REFINE slot its parent's plus its own
residual. A `planes` layer refines at every kept slot; where nobody owns the slot, it refines 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from tsn_toolkit.contracts import LayerCodes, LayerPlanes
from tsn_toolkit.numerics.lookup import look_up
from tsn_toolkit.store.layout import CodedLayer, KeptSlots
from tsn_toolkit.store.mask_forms import MaskForm
from tsn_toolkit.store.part import PartError
from tsn_toolkit.vocabulary import MAX_CODE, SlotState

_CHUNK = 1 << 16
"""Slots of a plane that are added at a time."""


@dataclass(frozen=True)
class Inherited:
    """One layer as a child of an owner finds it.

    Attributes:
        q: int8, shape of the weight; the frozen view, 0 where nobody owns the slot.
        present: bool, shape of the weight; where the view holds a value.
        history: uint8, shape of the weight; bit 7 says that the owner uses the slot, bit 6 that its parent does, and so on; the trunk counts as none.
        scale: float32 (out_channels,); that of a dead unit is the one inherited, 0 where there is none. None while no owner has the layer.
    """

    q: NDArray[np.int8]
    present: NDArray[np.bool_]
    history: NDArray[np.uint8]
    scale: NDArray[np.float32] | None


@dataclass(frozen=True)
class OwnerLayer:
    """One layer of one owner, decoded.

    Attributes:
        above: what the owner inherited.
        states: uint8, shape of the weight; what the owner does at each slot, also where the layer is `shared`.
        own: the owner's own codes or planes; None for a `shared` layer and for a seed trunk.
        kept_outputs: bool (out_channels,), which units are kept.
        form: how the file holds the mask; None where it holds none.
    """

    above: Inherited
    states: NDArray[np.uint8]
    own: LayerCodes | LayerPlanes | None
    kept_outputs: NDArray[np.bool_]
    form: MaskForm | None = None

    @property
    def codes(self) -> LayerCodes | None:
        """The owner's own codes; None where the layer is not of encoding `codes`."""
        return self.own if isinstance(self.own, LayerCodes) else None

    @property
    def q(self) -> NDArray[np.int8]:
        """What the owner answers with: int8, shape of the weight, 0 where pruned; may be shared with the view."""
        used = self.states != SlotState.PRUNED
        return self.view if used.all() else np.multiply(self.view, used)

    @cached_property
    def view(self) -> NDArray[np.int8]:
        """The frozen view that the owner hands to its children: int8, shape of the weight."""
        if self.own is None:
            return self.above.q
        if isinstance(self.own, LayerPlanes):
            step = _plane_steps(self.own)
            if not self.states.all():
                step *= self.states != SlotState.PRUNED
            return step if self.above.scale is None else _add_(step, self.above.q)
        values = look_up(self.own.codes, self.own.codebook) if self.own.codebook.size else np.zeros(0, np.int8)
        if len(values) == self.states.size:
            return values.reshape(self.states.shape)
        view = self.above.q.copy()
        flat, states = view.reshape(-1), self.states.reshape(-1)
        flat[np.flatnonzero(states == SlotState.OWN)] = values
        if self.own.refinement is not None:
            slots = np.flatnonzero(states == SlotState.REFINE)
            flat[slots] = _clip(np.add(flat[slots], self.own.refinement.codebook[self.own.refinement.codes], dtype=np.int16))
        return view

    @cached_property
    def scale(self) -> NDArray[np.float32] | None:
        """float32 (out_channels,); that of a dead unit is the one inherited. None while no owner has the layer."""
        if self.own is None:
            return self.above.scale
        inherited = np.float32(0) if self.above.scale is None else self.above.scale
        return np.where(self.kept_outputs, self.own.scale, inherited)

    @cached_property
    def below(self) -> Inherited:
        """What the owner's children inherit."""
        view, history = self.view, self._history()
        present = self.states >= SlotState.OWN
        present |= self.above.present
        return Inherited(view, present, history, self.scale)

    @property
    def allocated(self) -> NDArray[np.uint8]:
        """Bits of each slot's word that the owner allocated: shape of the weight."""
        if self.own is None:
            return np.zeros(self.states.shape, np.uint8)
        if isinstance(self.own, LayerPlanes):
            return np.asarray(self.states == SlotState.REFINE, np.uint8)
        refine = 0 if self.own.refinement is None else self.own.refinement.bit_width
        return look_up(self.states, np.array([0, 0, self.own.bit_width, refine], np.uint8))

    def _history(self) -> NDArray[np.uint8]:
        newest: NDArray[np.uint8] = (self.states != SlotState.PRUNED).view(np.uint8)
        newest <<= 7
        newest |= self.above.history >> np.uint8(1)
        return newest


@dataclass(frozen=True)
class TrunkLayer(OwnerLayer):
    """One layer of the trunk: it owns every slot or none, and does not count as an ancestor that uses slots."""

    def _history(self) -> NDArray[np.uint8]:
        return self.above.history


def nothing(layer: CodedLayer) -> Inherited:
    """A layer that nobody owns yet, as below any trunk."""
    zero: NDArray[np.uint8] = np.broadcast_to(np.uint8(0), layer.shape)  # one byte of memory
    return Inherited(zero.view(np.int8), zero.view(np.bool_), zero, None)


def shared_states(above: Inherited, layer: CodedLayer, kept: KeptSlots) -> NDArray[np.uint8]:
    """States of a `shared` layer: the parent's frozen view inside the kept units.

    Raises:
        PartError: no ancestor has the layer.
    """
    if above.scale is None:
        raise PartError(f"layer `{layer.name}` is shared, but neither the trunk nor an ancestor holds it")
    return kept.spread(kept.take(above.present)).view(np.uint8)  # True is REUSE


def _plane_steps(plane: LayerPlanes) -> NDArray[np.int8]:
    """+gain where the sign is set, else -gain."""
    gain = plane.gain.reshape(-1, *([1] * (plane.signs.ndim - 1)))
    step: NDArray[np.int8] = plane.signs.view(np.int8) * (gain + gain)  # may wrap, and comes back
    step -= gain
    return step


def _add_(step: NDArray[np.int8], inherited: NDArray[np.int8]) -> NDArray[np.int8]:
    """Adds what is inherited, clipped, in place; some rows at a time, so that the wider sums take little memory."""
    rows = max(1, _CHUNK // max(step[0].size, 1))
    for start in range(0, len(step), rows):
        part = slice(start, start + rows)
        step[part] = _clip(np.add(inherited[part], step[part], dtype=np.int16))
    return step


def _clip(values: NDArray[np.int16]) -> NDArray[np.int8]:
    return np.clip(values, -MAX_CODE, MAX_CODE, out=values).astype(np.int8)
