"""The blobs of float vectors, heads and activation ranges. Entries of dead units are not stored and read back as 0."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from tsn_toolkit.contracts import ActivationRange, HeadState, NormState
from tsn_toolkit.numerics.vectors import decode_vector, encode_vector, vector_size_bytes
from tsn_toolkit.store.layout import MAX_SLOTS, Architecture, NamedLengths, UnitMasks
from tsn_toolkit.store.part import BlobReader, PartError
from tsn_toolkit.store.values import decode_codes, encode_codes
from tsn_toolkit.vocabulary import MAX_CODE, VectorPrecision

_RANGE = np.dtype([("scale", "<f4"), ("zero_point", "<i2"), ("signed", "u1")])


def encode_norms(
    architecture: Architecture, masks: UnitMasks, norms: Mapping[str, NormState], lengths: NamedLengths, precision: VectorPrecision
) -> bytes:
    """Per norm its gain, then its shift."""
    fields = []
    for name, length in lengths:
        kept = architecture.kept_entries(masks, name, length)
        fields += [encode_vector(vector[kept], precision) for vector in (norms[name].gain, norms[name].shift)]
    return b"".join(fields)


def decode_norms(
    architecture: Architecture, masks: UnitMasks, blob: BlobReader, lengths: NamedLengths, precision: VectorPrecision
) -> dict[str, NormState]:
    """The inverse of `encode_norms`; PartError or NumericsError where the blob does not fit."""
    norms = {}
    for name, length in lengths:
        kept = architecture.kept_entries(masks, name, length)
        gain = take_kept(blob, kept, precision)
        norms[name] = NormState(gain, take_kept(blob, kept, precision))
    blob.finish()
    return norms


def encode_biases(
    architecture: Architecture,
    masks: UnitMasks,
    biases: Mapping[str, NDArray[np.float32]],
    lengths: NamedLengths,
    precision: VectorPrecision,
) -> bytes:
    """One vector per bias."""
    return b"".join(encode_vector(biases[name][architecture.kept_entries(masks, name, length)], precision) for name, length in lengths)


def decode_biases(
    architecture: Architecture, masks: UnitMasks, blob: BlobReader, lengths: NamedLengths, precision: VectorPrecision
) -> dict[str, NDArray[np.float32]]:
    """The inverse of `encode_biases`; PartError or NumericsError where the blob does not fit."""
    biases = {name: take_kept(blob, architecture.kept_entries(masks, name, length), precision) for name, length in lengths}
    blob.finish()
    return biases


def encode_head(architecture: Architecture, masks: UnitMasks, head: HeadState, precision: VectorPrecision) -> bytes:
    """Bits per code, codes of the kept features row by row, each plus half of 2**bits, then the scale and the bias vector."""
    codes = head.codes[:, architecture.kept_features(masks)].reshape(-1)
    bit_width = 1 + int(np.abs(codes.astype(np.int16)).max(initial=0)).bit_length()
    stored = (codes.astype(np.int16) + (1 << bit_width - 1)).astype(np.uint8)
    return bytes([bit_width]) + encode_codes(stored, bit_width) + encode_vector(head.scale, precision) + encode_vector(head.bias, precision)


def decode_head(architecture: Architecture, masks: UnitMasks, blob: BlobReader, classes: int, precision: VectorPrecision) -> HeadState:
    """The inverse of `encode_head`; PartError or NumericsError where the blob does not fit."""
    kept = architecture.kept_features(masks)
    if classes * len(kept) > MAX_SLOTS:
        raise PartError(f"a head of {classes} classes and {len(kept)} features has more than {MAX_SLOTS} codes")
    bit_width = blob.take(1)[0]
    if not 1 <= bit_width <= 8:
        raise PartError(f"codes of the head have 1..8 bits, not {bit_width}")
    stored = decode_codes(blob, classes * int(kept.sum()), bit_width).astype(np.int16) - (1 << bit_width - 1)
    if (stored < -MAX_CODE).any():
        raise PartError(f"a code of the head is below -{MAX_CODE}")
    scale = _take_vector(blob, classes, precision)
    bias = _take_vector(blob, classes, precision)
    blob.finish()
    codes = np.zeros((classes, len(kept)), np.int8)
    codes[:, kept] = stored.reshape(classes, -1)
    return HeadState(codes, scale, bias)


def encode_ranges(ranges: Mapping[str, ActivationRange], names: Sequence[str]) -> bytes:
    """Seven bytes per range: float32 scale, int16 zero point, uint8 signed."""
    rows = [(ranges[name].scale, ranges[name].zero_point, ranges[name].signed) for name in names]
    return np.array(rows, _RANGE).tobytes()


def decode_ranges(blob: BlobReader, names: Sequence[str]) -> dict[str, ActivationRange]:
    """The inverse of `encode_ranges`; PartError where the blob does not fit."""
    rows = np.frombuffer(blob.take(_RANGE.itemsize * len(names)), _RANGE)
    blob.finish()
    if not (np.isfinite(rows["scale"]) & (rows["scale"] > 0) & (rows["signed"] <= 1)).all():
        raise PartError("an activation range has a scale that is not positive and finite, or a sign flag other than 0 or 1")
    return {name: ActivationRange(float(row["scale"]), int(row["zero_point"]), bool(row["signed"])) for name, row in zip(names, rows, strict=True)}


def take_kept(blob: BlobReader, kept: NDArray[np.bool_], precision: VectorPrecision) -> NDArray[np.float32]:
    """The next vector of a blob: float32 (n,) with 0 at entries that are not kept."""
    vector = np.zeros(len(kept), np.float32)
    vector[kept] = _take_vector(blob, int(kept.sum()), precision)
    return vector


def _take_vector(blob: BlobReader, count: int, precision: VectorPrecision) -> NDArray[np.float32]:
    return decode_vector(blob.take(vector_size_bytes(count, precision)), count, precision)
