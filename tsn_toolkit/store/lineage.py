"""What an owner holds after its own part is laid over its parent's: states, own codes, and the frozen view that its children inherit.

The frozen view of an owner at a slot is the value owned by the nearest of the owner itself, its parent, ... the trunk. What a task answers with is
that view wherever the task is not PRUNED: an OWN slot shows its own value there, a REUSE slot its parent's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tsn_toolkit.contracts import ActivationRange, HeadState, LayerCodes, NormState
from tsn_toolkit.store.layout import Architecture, CodedLayer, NamedLengths, UnitMasks
from tsn_toolkit.store.part import PartError
from tsn_toolkit.store.symbols import MAX_DEPTH, SlotContext
from tsn_toolkit.vocabulary import SlotState


@dataclass(frozen=True)
class OwnerLayer:
    """One layer of one owner.

    Attributes:
        states: uint8, shape of the weight; what the owner does at each slot, also where the layer is `shared`.
        codes: the owner's own codes; None for a `shared` layer and for a seed trunk.
        view: int8, shape of the weight; the frozen view the owner hands to its children, 0 where nobody owns the slot.
        present: bool, shape of the weight; where the view holds a value.
        scale: float32 (out_channels,); that of a dead unit is the parent's, 0 where no ancestor has one. None while no ancestor has the layer.
        depth: context depth of the mask symbols in the file; None where the file holds none.
    """

    states: NDArray[np.uint8]
    codes: LayerCodes | None
    view: NDArray[np.int8]
    present: NDArray[np.bool_]
    scale: NDArray[np.float32] | None
    depth: int | None = None

    @property
    def q(self) -> NDArray[np.int8]:
        """What the owner answers with: int8, shape of the weight, 0 where pruned."""
        return np.where(self.states == SlotState.PRUNED, np.int8(0), self.view)


@dataclass(frozen=True)
class Owner:
    """The trunk or one task, decoded.

    Attributes:
        name, parent: parent is None for the trunk.
        metadata: of the part.
        classes, unit_masks, norms, biases, head, ranges: as in `TaskResult`.
        layers: every coded layer of the architecture.
        norm_lengths, bias_lengths: in the order of the file; a child with the same names need not repeat them.
    """

    name: str
    parent: Owner | None
    metadata: Mapping[str, Any]
    classes: tuple[int, ...]
    unit_masks: UnitMasks
    layers: Mapping[str, OwnerLayer]
    norms: Mapping[str, NormState]
    biases: Mapping[str, NDArray[np.float32]]
    head: HeadState | None
    ranges: Mapping[str, ActivationRange]
    norm_lengths: NamedLengths
    bias_lengths: NamedLengths


def slot_context(parent: Owner, layer: CodedLayer, kept: NDArray[np.bool_]) -> SlotContext:
    """What a child of `parent` knows of its kept slots before it reads its own symbols."""
    ancestors: list[NDArray[np.uint8]] = []
    owner: Owner | None = parent
    while owner is not None and owner.parent is not None and len(ancestors) < MAX_DEPTH:  # the trunk is no task ancestor
        ancestors.append(owner.layers[layer.name].states[kept])
        owner = owner.parent
    return SlotContext(parent.layers[layer.name].present[kept], ancestors)


def lay_over(
    parent: OwnerLayer, codes: LayerCodes, kept_outputs: NDArray[np.bool_], depth: int | None
) -> OwnerLayer:
    """An owner's own codes over its parent's layer."""
    own = codes.states == SlotState.OWN
    view = parent.view.copy()
    view[own] = codes.codebook[codes.codes]
    inherited = np.zeros_like(codes.scale) if parent.scale is None else parent.scale
    scale = np.where(kept_outputs, codes.scale, inherited)
    return OwnerLayer(codes.states, codes, view, parent.present | own, scale, depth)


def share(parent: OwnerLayer, layer: CodedLayer, kept: NDArray[np.bool_]) -> OwnerLayer:
    """A `shared` layer: the parent's frozen view inside the kept units.

    Raises:
        PartError: no ancestor has the layer.
    """
    if parent.scale is None:
        raise PartError(f"layer `{layer.name}` is shared, but neither the trunk nor an ancestor holds it")
    states = np.where(kept & parent.present, SlotState.REUSE, SlotState.PRUNED).astype(np.uint8)
    return OwnerLayer(states, None, parent.view, parent.present, parent.scale)


def empty_layer(layer: CodedLayer) -> OwnerLayer:
    """A layer that nobody owns yet, as below any trunk."""
    zeros = np.zeros(layer.shape, np.uint8)
    return OwnerLayer(zeros, None, zeros.astype(np.int8), zeros.astype(np.bool_), None)


def nothing(architecture: Architecture) -> dict[str, OwnerLayer]:
    """All layers, owned by nobody."""
    return {layer.name: empty_layer(layer) for layer in architecture.layers}
