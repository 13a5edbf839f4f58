"""The trunk as a part: the architecture record and, for a trained checkpoint, codes of every slot, norms, biases, free parameters and its head."""

from collections.abc import Mapping
from typing import Any

from tsn_toolkit.contracts import TrunkResult
from tsn_toolkit.store.fields import integer
from tsn_toolkit.store.free_parameters import encode_free_parameters
from tsn_toolkit.store.layer_blobs import TrunkReader, encode_trunk_layers
from tsn_toolkit.store.layout import MAX_SLOTS, Architecture
from tsn_toolkit.store.owner_part import OwnerPart
from tsn_toolkit.store.part import FREE, Part, PartError, write_part
from tsn_toolkit.store.record import architecture_from_json, architecture_to_json
from tsn_toolkit.store.vectors import encode_biases, encode_head, encode_norms
from tsn_toolkit.vocabulary import TRUNK, VectorPrecision

CHECKPOINT = "checkpoint"
SEED = "seed"
MAX_SEED = (1 << 63) - 1

PRECISION: VectorPrecision = "half"
"""Of a trunk's vectors."""

_OF_A_CHECKPOINT = {"layers", "values", "codebooks", "scales", "norms", "biases", "head", FREE}
"""Blobs that a checkpoint may hold; a seed has none."""

_CLASS_BYTES = 4
"""Scale and bias of one class at `half`."""


def encode_trunk(architecture: Architecture, trunk: TrunkResult, recipe: Mapping[str, Any]) -> bytes:
    """The file's bytes of a checked trunk."""
    metadata = {
        "name": TRUNK,
        "kind": trunk.kind,
        "seed": trunk.seed,
        "architecture": architecture_to_json(architecture),
        "head_classes": None if trunk.head is None else len(trunk.head.scale),
        "recipe": recipe,
    }
    blobs = {
        **encode_trunk_layers(architecture, trunk.layers, PRECISION),
        "norms": encode_norms(architecture, {}, trunk.norms, architecture.norms, PRECISION),
        "biases": encode_biases(architecture, {}, trunk.biases, architecture.biases, PRECISION),
        "head": b"" if trunk.head is None else encode_head(architecture, {}, trunk.head, PRECISION),
    }
    if architecture.free_parameters:
        owned = architecture.free_parameters if trunk.kind == CHECKPOINT else ()
        blobs[FREE] = encode_free_parameters(architecture, {}, trunk.free_parameters, owned, PRECISION)
    return write_part(metadata, blobs)


def open_trunk(part: Part) -> OwnerPart:
    """Reads the metadata of a trunk part.

    Raises:
        PartError, KeyError: the part is damaged.
    """
    metadata = part.metadata
    architecture = architecture_from_json(metadata["architecture"])
    integer(metadata["seed"], 0, MAX_SEED)
    if metadata["name"] != TRUNK or metadata["kind"] not in (CHECKPOINT, SEED) or not isinstance(metadata["recipe"], dict):
        raise PartError("its metadata are not those of a trunk")
    seed, classes = metadata["kind"] == SEED, metadata["head_classes"]
    empty = set(part.sizes_bytes) - (set() if seed else _OF_A_CHECKPOINT) | ({"head"} if classes is None else set())
    if any(part.sizes_bytes[name] for name in empty) or (seed and classes is not None):
        raise PartError("it holds a blob or a head that its metadata do not account for")
    if (FREE in part.sizes_bytes) != bool(architecture.free_parameters):
        raise PartError("its schema version and its architecture record disagree about whether there are free parameters")
    if classes is not None and integer(classes, 1, MAX_SLOTS) * _CLASS_BYTES > part.sizes_bytes["head"]:
        raise PartError(f"a head of {part.sizes_bytes['head']} bytes cannot have {classes} classes")
    return OwnerPart(
        name=TRUNK,
        metadata=metadata,
        architecture=architecture,
        classes=() if classes is None else tuple(range(classes)),
        unit_masks={},
        norm_lengths=architecture.norms,
        bias_lengths=architecture.biases,
        range_names=(),
        owned_parameters=() if seed else architecture.free_parameters,
        precision=PRECISION,
        part=part,
        read_layers=lambda: TrunkReader(part, architecture, PRECISION, seed=seed),
    )
