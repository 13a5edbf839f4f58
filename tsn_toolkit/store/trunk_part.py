"""The trunk as a part: the architecture record and, for a trained checkpoint, codes of every slot, norms, biases and its head."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tsn_toolkit.contracts import LayerCodes, TrunkResult
from tsn_toolkit.numerics.half import decode_half, encode_half, half_size_bytes
from tsn_toolkit.store.fields import integer, listing
from tsn_toolkit.store.layout import MAX_SLOTS, Architecture, CodedLayer
from tsn_toolkit.store.lineage import Owner, lay_over, nothing
from tsn_toolkit.store.part import BlobReader, PartError, read_part, write_part
from tsn_toolkit.store.record import architecture_from_json, architecture_to_json
from tsn_toolkit.store.values import ValueSpan, decode_values, encode_values
from tsn_toolkit.store.vectors import decode_biases, decode_head, decode_norms, encode_biases, encode_head, encode_norms
from tsn_toolkit.vocabulary import MAX_CODE, TRUNK, SlotState

CHECKPOINT = "checkpoint"
SEED = "seed"
MAX_SEED = (1 << 63) - 1


def encode_trunk(architecture: Architecture, trunk: TrunkResult, recipe: Mapping[str, Any]) -> bytes:
    """The file's bytes of a checked trunk."""
    layers = [trunk.layers[layer.name] for layer in architecture.layers if trunk.kind == CHECKPOINT]
    forms, values = encode_values([(codes.codes, codes.bit_width) for codes in layers])
    metadata = {
        "name": TRUNK,
        "kind": trunk.kind,
        "seed": trunk.seed,
        "architecture": architecture_to_json(architecture),
        "layers": [[codes.bit_width, form] for codes, form in zip(layers, forms, strict=True)],
        "head_classes": None if trunk.head is None else len(trunk.head.scale),
        "recipe": recipe,
    }
    blobs = {
        "values": values,
        "codebooks": b"".join(codes.codebook.tobytes() for codes in layers),
        "scales": b"".join(encode_half(codes.scale) for codes in layers),
        "norms": encode_norms(architecture, {}, trunk.norms, architecture.norms),
        "biases": encode_biases(architecture, {}, trunk.biases, architecture.biases),
        "head": b"" if trunk.head is None else encode_head(architecture, {}, trunk.head),
    }
    return write_part(metadata, blobs)


def decode_trunk(data: bytes) -> tuple[Architecture, Owner]:
    """Reads the trunk part.

    Raises:
        PartError, NumericsError, KeyError: the part is damaged.
    """
    metadata, blobs = read_part(data)
    architecture = architecture_from_json(metadata["architecture"])
    integer(metadata["seed"], 0, MAX_SEED)
    if metadata["name"] != TRUNK or metadata["kind"] not in (CHECKPOINT, SEED) or not isinstance(metadata["recipe"], dict):
        raise PartError("its metadata are not those of a trunk")
    layers = nothing(architecture)
    coded = architecture.layers if metadata["kind"] == CHECKPOINT else ()
    for layer, codes in zip(coded, _decode_layers(coded, listing(metadata["layers"], len(coded)), blobs), strict=True):
        layers[layer.name] = lay_over(layers[layer.name], codes, np.ones(layer.shape[0], np.bool_), None)
    classes = metadata["head_classes"]
    if (classes is None and blobs["head"]) or blobs["masks"] or blobs["ranges"]:
        raise PartError("it holds a blob that its metadata do not account for")
    head = None if classes is None else decode_head(architecture, {}, blobs["head"], integer(classes, 1, MAX_SLOTS))
    norms = decode_norms(architecture, {}, blobs["norms"], architecture.norms)
    biases = decode_biases(architecture, {}, blobs["biases"], architecture.biases)
    owner = Owner(TRUNK, None, metadata, (), {}, layers, norms, biases, head, {}, architecture.norms, architecture.biases)
    return architecture, owner


def trunk_result(owner: Owner, word_bits: int) -> TrunkResult:
    """A decoded trunk as it was committed."""
    layers = {name: layer.codes for name, layer in owner.layers.items() if layer.codes is not None}
    return TrunkResult(owner.metadata["kind"], owner.metadata["seed"], layers, owner.norms, owner.biases, owner.head, word_bits)


def _decode_layers(layers: tuple[CodedLayer, ...], rows: list[object], blobs: Mapping[str, bytes]) -> list[LayerCodes]:
    spans = []
    for layer, row in zip(layers, rows, strict=True):
        bit_width, form = listing(row, 2)
        spans.append(ValueSpan(layer.size, integer(bit_width, 1, 8), integer(form, 0, 1)))
    books = BlobReader("codebooks", blobs["codebooks"])
    scales = BlobReader("scales", blobs["scales"])
    codebooks = [take_codebook(books, span.bit_width) for span in spans]
    vectors = [decode_half(scales.take(half_size_bytes(layer.shape[0])), layer.shape[0]) for layer in layers]
    books.finish()
    scales.finish()
    values = decode_values(blobs["values"], spans)
    return [
        LayerCodes(np.full(layer.shape, SlotState.OWN, np.uint8), codes, codebook, span.bit_width, scale)
        for layer, codes, codebook, span, scale in zip(layers, values, codebooks, spans, vectors, strict=True)
    ]


def take_codebook(blob: BlobReader, bit_width: int) -> NDArray[np.int8]:
    """Reads one codebook: int8 (2**bit_width,), empty for 0 bits.

    Raises:
        PartError: the blob ends early, or the entries are not ascending in [-127, 127].
    """
    codebook = np.frombuffer(blob.take(1 << bit_width if bit_width else 0), np.int8)
    if (np.diff(codebook.astype(np.int16)) < 0).any() or (codebook < -MAX_CODE).any():
        raise PartError(f"a codebook is not ascending within [-{MAX_CODE}, {MAX_CODE}]: {codebook.tolist()[:8]}")
    return codebook
