"""The blobs of float vectors, heads and activation ranges. Entries of dead units are not stored and read back as 0."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from tsn_toolkit.contracts import ActivationRange, HeadState, NormState
from tsn_toolkit.numerics.half import decode_half, encode_half, half_size_bytes
from tsn_toolkit.store.layout import Architecture, NamedLengths, UnitMasks
from tsn_toolkit.store.part import BlobReader, PartError
from tsn_toolkit.vocabulary import MAX_CODE

_RANGE = np.dtype([("scale", "<f4"), ("zero_point", "<i2"), ("signed", "u1")])


def encode_norms(architecture: Architecture, masks: UnitMasks, norms: Mapping[str, NormState], lengths: NamedLengths) -> bytes:
    """Per norm its gain, then its shift."""
    fields = []
    for name, length in lengths:
        kept = architecture.kept_entries(masks, name, length)
        fields += [encode_half(norms[name].gain[kept]), encode_half(norms[name].shift[kept])]
    return b"".join(fields)


def decode_norms(architecture: Architecture, masks: UnitMasks, data: bytes, lengths: NamedLengths) -> dict[str, NormState]:
    """The inverse of `encode_norms`; PartError or NumericsError where the blob does not fit."""
    blob = BlobReader("norms", data)
    norms = {}
    for name, length in lengths:
        gain = _take_vector(architecture, masks, blob, name, length)
        norms[name] = NormState(gain, _take_vector(architecture, masks, blob, name, length))
    blob.finish()
    return norms


def encode_biases(
    architecture: Architecture, masks: UnitMasks, biases: Mapping[str, NDArray[np.float32]], lengths: NamedLengths
) -> bytes:
    """One vector per bias."""
    return b"".join(encode_half(biases[name][architecture.kept_entries(masks, name, length)]) for name, length in lengths)


def decode_biases(architecture: Architecture, masks: UnitMasks, data: bytes, lengths: NamedLengths) -> dict[str, NDArray[np.float32]]:
    """The inverse of `encode_biases`; PartError or NumericsError where the blob does not fit."""
    blob = BlobReader("biases", data)
    biases = {name: _take_vector(architecture, masks, blob, name, length) for name, length in lengths}
    blob.finish()
    return biases


def encode_head(architecture: Architecture, masks: UnitMasks, head: HeadState) -> bytes:
    """Codes of the kept features (int8, row by row), then the scale and the bias vector."""
    kept = architecture.kept_features(masks)
    return np.ascontiguousarray(head.codes[:, kept]).tobytes() + encode_half(head.scale) + encode_half(head.bias)


def decode_head(architecture: Architecture, masks: UnitMasks, data: bytes, classes: int) -> HeadState:
    """The inverse of `encode_head`; PartError or NumericsError where the blob does not fit."""
    kept = architecture.kept_features(masks)
    blob = BlobReader("head", data)
    stored = np.frombuffer(blob.take(classes * int(kept.sum())), np.int8).reshape(classes, -1)
    if (stored < -MAX_CODE).any():
        raise PartError(f"a code of the head is below -{MAX_CODE}")
    scale = decode_half(blob.take(half_size_bytes(classes)), classes)
    bias = decode_half(blob.take(half_size_bytes(classes)), classes)
    blob.finish()
    codes = np.zeros((classes, len(kept)), np.int8)
    codes[:, kept] = stored
    return HeadState(codes, scale, bias)


def encode_ranges(ranges: Mapping[str, ActivationRange], names: Sequence[str]) -> bytes:
    """Seven bytes per range: float32 scale, int16 zero point, uint8 signed."""
    rows = [(ranges[name].scale, ranges[name].zero_point, ranges[name].signed) for name in names]
    return np.array(rows, _RANGE).tobytes()


def decode_ranges(data: bytes, names: Sequence[str]) -> dict[str, ActivationRange]:
    """The inverse of `encode_ranges`; PartError where the blob does not fit."""
    blob = BlobReader("ranges", data)
    rows = np.frombuffer(blob.take(_RANGE.itemsize * len(names)), _RANGE)
    blob.finish()
    if not (np.isfinite(rows["scale"]) & (rows["scale"] > 0) & (rows["signed"] <= 1)).all():
        raise PartError("an activation range has a scale that is not positive and finite, or a sign flag other than 0 or 1")
    return {
        name: ActivationRange(float(row["scale"]), int(row["zero_point"]), bool(row["signed"]))
        for name, row in zip(names, rows, strict=True)
    }


def _take_vector(architecture: Architecture, masks: UnitMasks, blob: BlobReader, name: str, length: int) -> NDArray[np.float32]:
    kept = architecture.kept_entries(masks, name, length)
    count = int(kept.sum())
    vector = np.zeros(length, np.float32)
    vector[kept] = decode_half(blob.take(half_size_bytes(count)), count)
    return vector
