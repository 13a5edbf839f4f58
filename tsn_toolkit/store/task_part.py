"""One task as a part: unit masks, mask symbols, own codes, codebooks, scales, norms, biases, head, activation ranges."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tsn_toolkit.contracts import LayerCodes, TaskResult
from tsn_toolkit.numerics.bits import pack_bits, packed_size_bytes, unpack_bits
from tsn_toolkit.numerics.entropy import RunDecoder, encode_runs
from tsn_toolkit.numerics.half import decode_half, encode_half, half_size_bytes
from tsn_toolkit.store.fields import integer, listing, named_lengths, number, text
from tsn_toolkit.store.layout import Architecture, CodedLayer, NamedLengths, UnitMasks
from tsn_toolkit.store.lineage import Owner, OwnerLayer, lay_over, share, slot_context
from tsn_toolkit.store.part import BlobReader, PartError, read_part, write_part
from tsn_toolkit.store.symbols import MAX_DEPTH, Run, decode_symbols, encode_symbols, read_tables
from tsn_toolkit.store.trunk_part import take_codebook
from tsn_toolkit.store.values import ValueSpan, decode_values, encode_values
from tsn_toolkit.store.vectors import (
    decode_biases,
    decode_head,
    decode_norms,
    decode_ranges,
    encode_biases,
    encode_head,
    encode_norms,
    encode_ranges,
)
from tsn_toolkit.vocabulary import SlotState

_MAX_CLASS = (1 << 63) - 1


@dataclass(frozen=True)
class _CodedRow:
    """One `codes` layer as the metadata describe it."""

    layer: CodedLayer
    bit_width: int
    depth: int
    form: int


def encode_task(architecture: Architecture, parent: Owner, result: TaskResult, recipe: Mapping[str, Any]) -> bytes:
    """The file's bytes of a checked result; `recipe` is what differs from the trunk's."""
    masks = result.unit_masks
    groups = [index for index, group in enumerate(architecture.groups) if group.name in masks]
    unit_bits = b"".join(pack_bits(masks[architecture.groups[index].name], 1) for index in groups)
    coded = [layer for layer in architecture.layers if layer.name in result.layers]
    depths, symbols = _encode_masks(architecture, parent, result, coded)
    forms, values = encode_values([(result.layers[layer.name].codes, result.layers[layer.name].bit_width) for layer in coded])
    rows = {
        layer.name: [result.layers[layer.name].bit_width, depth, form] for layer, depth, form in zip(coded, depths, forms, strict=True)
    }
    norms = _lengths({name: len(norm.gain) for name, norm in result.norms.items()}, parent.norm_lengths)
    biases = _lengths({name: len(bias) for name, bias in result.biases.items()}, parent.bias_lengths)
    ranges = sorted(result.ranges)
    metadata = {
        "name": result.name,
        "parent": result.parent,
        "isolation": result.isolation,
        "strategy": result.strategy,
        "classes": [int(label) for label in result.classes],
        "groups": groups,
        "layers": [rows.get(layer.name) for layer in architecture.layers],
        "norms": None if norms == parent.norm_lengths else norms,
        "biases": None if biases == parent.bias_lengths else biases,
        "ranges": ranges,
        "validation": {name: float(value) for name, value in result.validation.items()},
        "recipe": recipe,
    }
    blobs = {
        "masks": unit_bits + symbols,
        "values": values,
        "codebooks": b"".join(result.layers[layer.name].codebook.tobytes() for layer in coded),
        "scales": b"".join(
            encode_half(result.layers[layer.name].scale[architecture.kept_outputs(masks, layer)]) for layer in coded
        ),
        "norms": encode_norms(architecture, masks, result.norms, norms),
        "biases": encode_biases(architecture, masks, result.biases, biases),
        "head": encode_head(architecture, masks, result.head),
        "ranges": encode_ranges(result.ranges, ranges),
    }
    return write_part(metadata, blobs)


def decode_task(architecture: Architecture, parent: Owner, data: bytes) -> Owner:
    """Reads a task part over its decoded parent.

    Raises:
        PartError, NumericsError, KeyError: the part is damaged.
    """
    metadata, blobs = read_part(data)
    if metadata["parent"] != parent.name:
        raise PartError(f"its metadata do not make it a child of `{parent.name}`")
    _check_recipe(metadata["recipe"])
    classes = tuple(integer(label, -_MAX_CLASS, _MAX_CLASS) for label in listing(metadata["classes"]))
    if not classes:
        raise PartError("it has no class")
    mask_blob = BlobReader("masks", blobs["masks"])
    masks = _take_unit_masks(architecture, listing(metadata["groups"]), mask_blob)
    rows = _coded_rows(architecture, listing(metadata["layers"], len(architecture.layers)))
    states = _decode_masks(architecture, parent, masks, rows, mask_blob)
    layers = _decode_layers(architecture, parent, masks, rows, states, blobs)
    for layer in architecture.layers:
        if layer.name not in layers:
            layers[layer.name] = share(parent.layers[layer.name], layer, architecture.kept_slots(masks, layer))
    norms = parent.norm_lengths if metadata["norms"] is None else named_lengths(metadata["norms"])
    biases = parent.bias_lengths if metadata["biases"] is None else named_lengths(metadata["biases"])
    ranges = [text(name) for name in listing(metadata["ranges"])]
    _check_validation(metadata["validation"])
    return Owner(
        name=text(metadata["name"]),
        parent=parent,
        metadata=metadata,
        classes=classes,
        unit_masks=masks,
        layers={layer.name: layers[layer.name] for layer in architecture.layers},
        norms=decode_norms(architecture, masks, blobs["norms"], norms),
        biases=decode_biases(architecture, masks, blobs["biases"], biases),
        head=decode_head(architecture, masks, blobs["head"], len(classes)),
        ranges=decode_ranges(blobs["ranges"], ranges),
        norm_lengths=norms,
        bias_lengths=biases,
    )


def _lengths(own: Mapping[str, int], inherited: NamedLengths) -> NamedLengths:
    """The inherited order when the names and lengths are the same, else names in order."""
    return inherited if dict(inherited) == own else tuple(sorted(own.items()))


def _encode_masks(
    architecture: Architecture, parent: Owner, result: TaskResult, coded: Sequence[CodedLayer]
) -> tuple[list[int], bytes]:
    depths: list[int] = []
    tables: list[bytes] = []
    runs: list[Run] = []
    for layer in coded:
        kept = architecture.kept_slots(result.unit_masks, layer)
        depth, table, layer_runs = encode_symbols(slot_context(parent, layer, kept), result.layers[layer.name].states[kept])
        depths.append(depth)
        tables.append(table)
        runs += layer_runs
    return depths, b"".join(tables) + encode_runs(runs)


def _take_unit_masks(architecture: Architecture, indices: Sequence[object], blob: BlobReader) -> dict[str, NDArray[np.bool_]]:
    chosen = [integer(index, 0, len(architecture.groups) - 1) for index in indices]
    if sorted(set(chosen)) != chosen:
        raise PartError(f"its unit groups are not in ascending order: {chosen[:8]}")
    masks = {}
    for index in chosen:
        group = architecture.groups[index]
        masks[group.name] = unpack_bits(blob.take(packed_size_bytes(group.size, 1)), 1, group.size).astype(np.bool_)
        if not masks[group.name].any():
            raise PartError(f"it keeps no unit of group `{group.name}`")
    return masks


def _coded_rows(architecture: Architecture, rows: Sequence[object]) -> list[_CodedRow]:
    coded = []
    for layer, row in zip(architecture.layers, rows, strict=True):
        if row is not None:
            bit_width, depth, form = listing(row, 3)
            coded.append(_CodedRow(layer, integer(bit_width, 0, 8), integer(depth, 0, MAX_DEPTH), integer(form, 0, 1)))
    return coded


def _decode_masks(
    architecture: Architecture, parent: Owner, masks: UnitMasks, rows: Sequence[_CodedRow], blob: BlobReader
) -> list[NDArray[np.uint8]]:
    """States of every `codes` layer, shape of the weight."""
    kept = [architecture.kept_slots(masks, row.layer) for row in rows]
    contexts = [slot_context(parent, row.layer, slots) for row, slots in zip(rows, kept, strict=True)]
    for row, context in zip(rows, contexts, strict=True):
        if row.depth > len(context.ancestors):
            raise PartError(f"layer `{row.layer.name}` uses {row.depth} ancestors as context, the task has {len(context.ancestors)}")
    tables = [read_tables(context, row.depth, blob) for row, context in zip(rows, contexts, strict=True)]
    stream = RunDecoder(blob.rest())
    states = []
    for row, slots, context, table in zip(rows, kept, contexts, tables, strict=True):
        full = np.full(row.layer.shape, SlotState.PRUNED, np.uint8)
        full[slots] = decode_symbols(context, row.depth, table, stream)
        states.append(full)
    stream.finish()
    return states


def _decode_layers(
    architecture: Architecture,
    parent: Owner,
    masks: UnitMasks,
    rows: Sequence[_CodedRow],
    states: Sequence[NDArray[np.uint8]],
    blobs: Mapping[str, bytes],
) -> dict[str, OwnerLayer]:
    books, scales = BlobReader("codebooks", blobs["codebooks"]), BlobReader("scales", blobs["scales"])
    spans = [
        ValueSpan(int(np.count_nonzero(full == SlotState.OWN)), row.bit_width, row.form) for row, full in zip(rows, states, strict=True)
    ]
    layers = {}
    for row, span, full, codes in zip(rows, spans, states, decode_values(blobs["values"], spans), strict=True):
        name = row.layer.name
        if span.count and not span.bit_width:
            raise PartError(f"layer `{name}` owns {span.count} slots with 0 bits")
        kept = architecture.kept_outputs(masks, row.layer)
        scale = np.zeros(len(kept), np.float32)
        scale[kept] = decode_half(scales.take(half_size_bytes(int(kept.sum()))), int(kept.sum()))
        own = LayerCodes(full, codes, take_codebook(books, span.bit_width), span.bit_width, scale)
        layers[name] = lay_over(parent.layers[name], own, kept, row.depth)
    books.finish()
    scales.finish()
    return layers


def _check_validation(value: object) -> None:
    if not isinstance(value, dict):
        raise PartError(f"its validation numbers are not an object: {value!r:.80}")
    for entry in value.values():
        number(entry)


def _check_recipe(difference: object) -> None:
    """What differs from the trunk's recipe: {"set": {...}, "removed": [...]}."""
    if not isinstance(difference, dict) or not isinstance(difference.get("set", {}), dict) or not isinstance(difference.get("removed", []), list):
        raise PartError(f"its recipe is not a difference of two recipes: {difference!r:.80}")
