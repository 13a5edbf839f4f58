"""One task as a part: unit masks, masks, own codes, codebooks, scales, norms, biases, head, activation ranges, free parameters.

Of norms, biases and ranges the metadata name only what differs from the parent's; what is as the parent's is left out. Of free parameters neither
names nor values are repeated.
"""

from collections.abc import Mapping, Sequence
from typing import Any, cast, get_args

import numpy as np
from numpy.typing import NDArray

from tsn_toolkit.contracts import FrozenParameter, TaskResult
from tsn_toolkit.numerics.bits import pack_bits, packed_size_bytes, unpack_bits
from tsn_toolkit.store.fields import integer, listing, named_lengths, number, text
from tsn_toolkit.store.free_parameters import changed_by, encode_free_parameters, owned_from_json, owned_to_json
from tsn_toolkit.store.layer_blobs import LayerReader, encode_layers
from tsn_toolkit.store.layout import Architecture, NamedLengths
from tsn_toolkit.store.lineage import Inherited
from tsn_toolkit.store.owner_part import OwnerPart
from tsn_toolkit.store.part import FREE, MEMORY, BlobReader, Part, PartError, write_part
from tsn_toolkit.store.recipes import check_difference
from tsn_toolkit.store.revision import check_description, describe_revision, encode_memory
from tsn_toolkit.store.vectors import encode_biases, encode_head, encode_norms, encode_ranges
from tsn_toolkit.vocabulary import VectorPrecision

_MAX_CLASS = (1 << 63) - 1
_DEFAULT_PRECISION = "half"


def encode_task(
    architecture: Architecture,
    parent: OwnerPart,
    above: Mapping[str, Inherited],
    free: Mapping[str, FrozenParameter],
    result: TaskResult,
    recipe: Mapping[str, Any],
) -> bytes:
    """The file's bytes of a checked result.

    Args:
        architecture: the record.
        parent: the opened part of the parent.
        above: what the task inherits, by layer.
        free: free parameters that it inherits, by name.
        result: the task.
        recipe: what differs from the parent's.
    """
    masks, precision = result.unit_masks, result.vector_precision
    groups = [index for index, group in enumerate(architecture.groups) if group.name in masks]
    norms = _lengths({name: len(norm.gain) for name, norm in result.norms.items()}, parent.norm_lengths)
    biases = _lengths({name: len(bias) for name, bias in result.biases.items()}, parent.bias_lengths)
    ranges = parent.range_names if set(result.ranges) == set(parent.range_names) else tuple(sorted(result.ranges))
    metadata: dict[str, Any] = {
        "name": result.name,
        "parent": result.parent,
        "isolation": result.isolation,
        "strategy": result.strategy,
        "classes": [int(label) for label in result.classes],
        "groups": groups,
        "validation": {name: float(value) for name, value in result.validation.items()},
        "recipe": recipe,
    }
    if norms != parent.norm_lengths:
        metadata["norms"] = norms
    if biases != parent.bias_lengths:
        metadata["biases"] = biases
    if ranges != parent.range_names:
        metadata["ranges"] = ranges
    if precision != _DEFAULT_PRECISION:
        metadata["vectors"] = precision
    if result.revision is not None:
        metadata["revision"] = describe_revision(result.revision)
    owned = changed_by(architecture, masks, result.free_parameters, free)
    if owned:
        metadata["free_parameters"] = owned_to_json(architecture, owned)
    layers = encode_layers(architecture, masks, result.layers, above, precision)
    unit_bits = b"".join(pack_bits(masks[architecture.groups[index].name], 1) for index in groups)
    blobs = {
        **layers,
        "masks": unit_bits + layers["masks"],
        "norms": encode_norms(architecture, masks, result.norms, norms, precision),
        "biases": encode_biases(architecture, masks, result.biases, biases, precision),
        "head": encode_head(architecture, masks, result.head, precision),
        "ranges": encode_ranges(result.ranges, ranges),
        MEMORY: b"" if result.revision is None else encode_memory(result.revision),
    }
    if owned:
        blobs[FREE] = encode_free_parameters(architecture, masks, result.free_parameters, owned, precision)
    return write_part(metadata, blobs)


def open_task(architecture: Architecture, parent: OwnerPart, part: Part) -> OwnerPart:
    """Reads the metadata and the unit masks of a task part.

    Raises:
        PartError, NumericsError, KeyError: the part is damaged.
    """
    metadata = part.metadata
    if metadata["parent"] != parent.name:
        raise PartError(f"its metadata do not make it a child of `{parent.name}`")
    check_difference(metadata["recipe"])
    _check_validation(metadata["validation"])
    classes = tuple(integer(label, -_MAX_CLASS, _MAX_CLASS) for label in listing(metadata["classes"]))
    if not classes:
        raise PartError("it has no class")
    precision = _precision(metadata.get("vectors", _DEFAULT_PRECISION))
    check_description(metadata, len(classes), part.sizes_bytes.get(MEMORY, 0))
    if (FREE in part.sizes_bytes) != ("free_parameters" in metadata):
        raise PartError("its schema version and its metadata disagree about whether it owns free parameters")
    groups = listing(metadata["groups"])
    masks = _take_unit_masks(architecture, groups, part.blob("masks"))

    def read_layers() -> LayerReader:
        blob = part.blob("masks")
        _take_unit_masks(architecture, groups, blob)
        return LayerReader(part, architecture, masks, blob, precision)

    return OwnerPart(
        name=text(metadata["name"]),
        metadata=metadata,
        architecture=architecture,
        classes=classes,
        unit_masks=masks,
        norm_lengths=named_lengths(metadata["norms"]) if "norms" in metadata else parent.norm_lengths,
        bias_lengths=named_lengths(metadata["biases"]) if "biases" in metadata else parent.bias_lengths,
        range_names=tuple(text(name) for name in listing(metadata["ranges"])) if "ranges" in metadata else parent.range_names,
        owned_parameters=owned_from_json(architecture, metadata["free_parameters"]) if "free_parameters" in metadata else (),
        precision=precision,
        part=part,
        read_layers=read_layers,
    )


def _lengths(own: Mapping[str, int], inherited: NamedLengths) -> NamedLengths:
    """The inherited order when the names and lengths are the same, else names in order."""
    return inherited if dict(inherited) == own else tuple(sorted(own.items()))


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


def _precision(value: object) -> VectorPrecision:
    if value not in get_args(VectorPrecision):
        raise PartError(f"its vectors are {value!r:.80}, not one of {get_args(VectorPrecision)}")
    return cast(VectorPrecision, value)


def _check_validation(value: object) -> None:
    if not isinstance(value, dict):
        raise PartError(f"its validation numbers are not an object: {value!r:.80}")
    for entry in value.values():
        number(entry)
