"""The coded layers of a part: five blobs, in the order of the architecture record.

`layers` is one byte per layer: `SHARED`, `PLANES`, or bits of own codes | bits of residual codes << 4. The others hold a section for each layer that
is not shared. `masks`: unit masks, then the masks of layers with codes. `values`: own codes, then residual codes, in C order; or one bit per kept
slot, set for +1, of a plane. `codebooks`: of own and of residual codes; or the gain of each kept output of a plane. `scales`: 0 (as the parent's) or
1 and the vector of kept outputs. The trunk owns every slot, so that it has no masks; a seed trunk has none of these blobs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tsn_toolkit.contracts import LayerCodes, LayerPlanes
from tsn_toolkit.numerics.vectors import encode_vector
from tsn_toolkit.store.codebooks import encode_codebook, take_codebook
from tsn_toolkit.store.known_slots import KnownSlots
from tsn_toolkit.store.layout import Architecture, CodedLayer, KeptSlots, UnitMasks
from tsn_toolkit.store.lineage import Inherited, OwnerLayer, TrunkLayer, known_patches, shared_patches
from tsn_toolkit.store.masks import decode_mask, encode_mask
from tsn_toolkit.store.own_values import ReadCodes, ReadPlane, ReadResiduals
from tsn_toolkit.store.part import BlobReader, Part, PartError
from tsn_toolkit.store.values import CodeRun, encode_values, read_codes
from tsn_toolkit.store.vectors import take_kept
from tsn_toolkit.vocabulary import SlotState, VectorPrecision

SHARED, PLANES = 0xFF, 0xFE
_INHERITED, _OWN = b"\0", b"\1"
_MOST_BITS = 8

Own = LayerCodes | LayerPlanes


def encode_layers(
    architecture: Architecture, masks: UnitMasks, layers: Mapping[str, Own], above: Mapping[str, Inherited], precision: VectorPrecision
) -> dict[str, bytes]:
    """The layer sections of a task's blobs `masks`, `values`, `codebooks` and `scales`.

    Args:
        architecture: the record.
        masks: unit masks.
        layers: checked codes or planes of the layers that are not shared.
        above: what the task inherits.
        precision: of scales.
    """
    kinds = bytes(_kind(layers.get(layer.name)) for layer in architecture.layers)
    sections: dict[str, list[bytes]] = {"layers": [kinds], "masks": [], "values": [], "codebooks": [], "scales": []}
    for layer in architecture.layers:
        if layer.name in layers:
            own, kept, known = layers[layer.name], architecture.kept_slots(masks, layer), above[layer.name]
            if isinstance(own, LayerCodes):
                refines = own.refinement is not None
                sections["masks"].append(encode_mask(kept.take(own.states), known_slots(known, kept), own.granularity, refines=refines)[1])
            sections["values"].append(encode_values(code_runs(own, kept)))
            sections["codebooks"].append(_codebook_bytes(own, kept))
            sections["scales"].append(_scale_bytes(own.scale[kept.outputs], known.scale, kept, precision))
    return {name: b"".join(fields) for name, fields in sections.items()}


def encode_trunk_layers(architecture: Architecture, layers: Mapping[str, LayerCodes], precision: VectorPrecision) -> dict[str, bytes]:
    """The layer sections of the trunk's blobs, empty for a seed trunk."""
    coded = [layers[layer.name] for layer in architecture.layers if layer.name in layers]
    return {
        "layers": bytes(_kind(codes) for codes in coded),
        "values": encode_values((codes.codes, codes.bit_width) for codes in coded),
        "codebooks": b"".join(encode_codebook(codes.codebook) for codes in coded),
        "scales": b"".join(_OWN + encode_vector(codes.scale, precision) for codes in coded),
    }


def code_runs(own: Own, kept: KeptSlots) -> list[CodeRun]:
    """What a layer puts into the blob of values: own codes, then residual codes; or the signs of its kept slots."""
    if isinstance(own, LayerPlanes):
        return [(kept.take(own.signs).view(np.uint8), 1)]
    refinement = own.refinement
    return [(own.codes, own.bit_width), *([] if refinement is None else [(refinement.codes, refinement.bit_width)])]


def code_bits(kinds: bytes) -> list[tuple[int, int]]:
    """(index of the layer, bits per code) of every run of codes that a part with this blob `layers` holds, in the order of its values.

    Raises:
        PartError: there is no such kind.
    """
    runs = []
    for index, kind in enumerate(kinds):
        if kind == PLANES:
            runs.append((index, 1))
        elif kind != SHARED:
            own, refine = _widths(kind)
            runs += [(index, own), *([(index, refine)] if refine else [])]
    return runs


def known_slots(above: Inherited, kept: KeptSlots) -> KnownSlots:
    """What is known of each of a layer's kept slots before the task's own mask."""
    return known_patches(above, kept).refined(1)


class UnreadLayers(NamedTuple):
    """What is left of the layers of one part: a byte for each that says its kind, and the blobs; a trunk has an empty one of masks."""

    kinds: bytes
    masks: BlobReader
    values: BlobReader
    codebooks: BlobReader
    scales: BlobReader


class LayerReader:
    """Reads the layers of one part, in the order of the record, each over what its owner inherits."""

    def __init__(self, part: Part, architecture: Architecture, masks: UnitMasks, masks_blob: BlobReader, precision: VectorPrecision) -> None:
        """Begins with the first layer.

        Args:
            part: the part.
            architecture: the record.
            masks: its unit masks.
            masks_blob: behind the unit masks.
            precision: of its scales.
        """
        self._architecture, self._unit_masks, self._precision = architecture, masks, precision
        self._masks = masks_blob
        self._values, self._codebooks, self._scales = (part.blob(name) for name in ("values", "codebooks", "scales"))
        self._kinds = _kinds(part, len(architecture.layers))

    def next(self, layer: CodedLayer, above: Inherited) -> OwnerLayer:
        """The next layer.

        Raises:
            PartError, NumericsError: the part is damaged.
        """
        kind = next(self._kinds)
        kept = self._architecture.kept_slots(self._unit_masks, layer)
        if kind == SHARED:
            return OwnerLayer(above, shared_patches(above, layer, kept), None, kept.outputs)
        if kind == PLANES:
            return self._planes(above, kept)
        return self._codes(layer, above, kept, *_widths(kind))

    def unread(self) -> UnreadLayers:
        """What is left, to be read by another reader."""
        return UnreadLayers(bytes(self._kinds), self._masks, self._values, self._codebooks, self._scales)

    def finish(self) -> None:
        """Checks that the blobs are used up.

        Raises:
            PartError: bytes are left.
        """
        for blob in (self._masks, self._values, self._codebooks, self._scales):
            blob.finish()

    def _planes(self, above: Inherited, kept: KeptSlots) -> OwnerLayer:
        signs = read_codes(self._values, kept.size, 1)
        gain = np.zeros(len(kept.outputs), np.int8)
        gain[kept.outputs] = np.frombuffer(self._codebooks.take(kept.shape[0]), np.int8)
        if (gain < 0).any():
            raise PartError(f"a gain of a plane is negative: {int(gain.min())}")
        patches = kept.in_patches(kept.grain)
        states = patches.spread(np.full(patches.size, SlotState.REFINE, np.uint8)).reshape(-1)
        return OwnerLayer(above, states, ReadPlane(signs, kept, gain, self._scale(above, kept)), kept.outputs)

    def _codes(self, layer: CodedLayer, above: Inherited, kept: KeptSlots, bit_width: int, refine_bits: int) -> OwnerLayer:
        form, states = decode_mask(self._masks, known_patches(above, kept), refines=refine_bits > 0)
        grain = kept.size // len(states) if len(states) else kept.grain
        owned = int(np.count_nonzero(states == SlotState.OWN)) * grain
        if owned and not bit_width:
            raise PartError(f"layer `{layer.name}` owns {owned} slots with 0 bits")
        codes, codebook = read_codes(self._values, owned, bit_width), take_codebook(self._codebooks, bit_width)
        residuals = None
        if refine_bits:
            refined = int(np.count_nonzero(states == SlotState.REFINE)) * grain
            residuals = ReadResiduals(read_codes(self._values, refined, refine_bits), take_codebook(self._codebooks, refine_bits), refine_bits)
        read = ReadCodes(codes, codebook, bit_width, self._scale(above, kept), residuals)
        return OwnerLayer(above, kept.in_patches(grain).spread(states).reshape(-1), read, kept.outputs, form)

    def _scale(self, above: Inherited, kept: KeptSlots) -> NDArray[np.float32]:
        flag = self._scales.take(1)
        if flag == _OWN:
            return take_kept(self._scales, kept.outputs, self._precision)
        if flag != _INHERITED or above.scale is None:
            raise PartError("a scale is neither its own nor one that an ancestor has")
        return above.scale * kept.outputs


class TrunkReader:
    """Reads the layers of a trunk part; of a seed trunk, nothing."""

    def __init__(self, part: Part, architecture: Architecture, precision: VectorPrecision, *, seed: bool) -> None:
        """Begins with the first layer."""
        self._precision, self._seed = precision, seed
        self._values, self._codebooks, self._scales = (part.blob(name) for name in ("values", "codebooks", "scales"))
        self._kinds = _kinds(part, 0 if seed else len(architecture.layers))

    def next(self, layer: CodedLayer, above: Inherited) -> OwnerLayer:
        """The next layer.

        Raises:
            PartError, NumericsError: the part is damaged.
        """
        if self._seed:
            return TrunkLayer(above, np.zeros(layer.shape[0], np.uint8), None, np.zeros(layer.shape[0], np.bool_))
        kind = next(self._kinds)
        if not 1 <= kind <= _MOST_BITS:
            raise PartError(f"layer `{layer.name}` of a trunk has codes of 1..{_MOST_BITS} bits, not {kind}")
        codes, codebook = read_codes(self._values, layer.size, kind), take_codebook(self._codebooks, kind)
        if self._scales.take(1) != _OWN:
            raise PartError(f"layer `{layer.name}` of a trunk has no scale")
        everything = np.ones(layer.shape[0], np.bool_)
        read = ReadCodes(codes, codebook, kind, take_kept(self._scales, everything, self._precision))
        return TrunkLayer(above, np.full(layer.shape[0], SlotState.OWN, np.uint8), read, everything)

    def unread(self) -> UnreadLayers:
        """What is left, to be read by another reader."""
        return UnreadLayers(bytes(self._kinds), BlobReader.of("masks", b""), self._values, self._codebooks, self._scales)

    def finish(self) -> None:
        """Checks that the blobs are used up."""
        for blob in (self._values, self._codebooks, self._scales):
            blob.finish()


def _kinds(part: Part, layers: int) -> Iterator[int]:
    blob = part.blob("layers")
    kinds = blob.take(layers)
    blob.finish()
    return iter(kinds)


def _kind(own: Own | None) -> int:
    if own is None:
        return SHARED
    if isinstance(own, LayerPlanes):
        return PLANES
    return own.bit_width | (0 if own.refinement is None else own.refinement.bit_width) << 4


def _widths(kind: int) -> tuple[int, int]:
    own, refine = kind & 0xF, kind >> 4
    if max(own, refine) > _MOST_BITS:
        raise PartError(f"there is no kind {kind} of layers")
    return own, refine


def _codebook_bytes(own: Own, kept: KeptSlots) -> bytes:
    if isinstance(own, LayerPlanes):
        return own.gain[kept.outputs].tobytes()
    return encode_codebook(own.codebook) + (b"" if own.refinement is None else encode_codebook(own.refinement.codebook))


def _scale_bytes(scale: NDArray[np.float32], inherited: NDArray[np.float32] | None, kept: KeptSlots, precision: VectorPrecision) -> bytes:
    if inherited is not None and np.array_equal(scale, inherited[kept.outputs]):
        return _INHERITED
    return _OWN + encode_vector(scale, precision)
