"""The architecture record as JSON, built from a graph and checked when read back.

Units of a member are stored as `"="` (index i is unit i), an integer r (every unit r times in a row, as a flattened conv output), or runs
[start, step, count] with step 0 or 1; start -1 with step 0 is "no unit of this group".
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tsn_toolkit.contracts import GroupMember, ModelGraph, TrunkResult
from tsn_toolkit.errors import StoreError
from tsn_toolkit.store.fields import integer, listing, named_lengths, text
from tsn_toolkit.store.free_parameters import kept_of, records_from_json, records_to_json
from tsn_toolkit.store.layout import MAX_LENGTH, MAX_SLOTS, Architecture, CodedLayer, StoredGroup, essential_members
from tsn_toolkit.store.part import PartError
from tsn_toolkit.vocabulary import MAX_WORD_BITS


def architecture_from_graph(graph: ModelGraph, trunk: TrunkResult) -> Architecture:
    """Makes the record of a model.

    Raises:
        StoreError: the number of input features of the head is in neither the graph nor the trunk, or the model has too many weights.
    """
    layers = tuple(CodedLayer(layer.name, tuple(layer.shape)) for layer in graph.layers if layer.name != graph.head)
    architecture = Architecture(
        fingerprint=graph.fingerprint,
        input_shape=tuple(graph.input_shape),
        head=graph.head,
        head_features=_head_features(graph, trunk),
        layers=layers,
        norms=tuple((name, len(trunk.norms[name].gain)) for name in sorted(trunk.norms)),
        biases=tuple((name, len(trunk.biases[name])) for name in sorted(trunk.biases)),
        groups=tuple(StoredGroup(group.name, group.size, essential_members(group.members)) for group in graph.groups),
        word_bits=trunk.word_bits,
        free_parameters=graph.free_parameters,
    )
    if architecture.size > MAX_SLOTS:
        raise StoreError(f"the model has {architecture.size} coded weights; a store holds at most {MAX_SLOTS}. Use a smaller model.")
    try:
        return architecture_from_json(architecture_to_json(architecture))
    except PartError as error:
        raise StoreError(f"the graph contradicts itself: {error}") from error


def _head_features(graph: ModelGraph, trunk: TrunkResult) -> int:
    for layer in graph.layers:
        if layer.name == graph.head:
            return int(layer.shape[1])
    if trunk.head is not None:
        return int(trunk.head.codes.shape[1])
    for group in graph.groups:
        for member in group.members:
            if member.parameter == f"{graph.head}.weight" and member.dim == 1:
                return len(member.unit)
    raise StoreError(f"the graph does not say how many input features the head `{graph.head}` has. List the head among its layers.")


def architecture_to_json(architecture: Architecture) -> dict[str, Any]:
    """The record as a JSON value; it has a key for free parameters where there are any."""
    free = {"free_parameters": records_to_json(architecture.free_parameters)} if architecture.free_parameters else {}
    return {
        "fingerprint": architecture.fingerprint,
        "input_shape": list(architecture.input_shape),
        "head": [architecture.head, architecture.head_features],
        "layers": [[layer.name, list(layer.shape)] for layer in architecture.layers],
        "norms": [list(entry) for entry in architecture.norms],
        "biases": [list(entry) for entry in architecture.biases],
        "groups": [
            [group.name, group.size, [[m.parameter, m.dim, _units_to_json(m.unit, group.size)] for m in group.members]]
            for group in architecture.groups
        ],
        "word_bits": architecture.word_bits,
        **free,
    }


def architecture_from_json(value: Mapping[str, Any]) -> Architecture:
    """Reads the record back.

    Raises:
        PartError: a field is missing, has another type, or is out of bounds.
    """
    head, features = listing(value["head"], 2)
    layers = tuple(_layer_from_json(entry) for entry in listing(value["layers"]))
    if sum(layer.size for layer in layers) > MAX_SLOTS:
        raise PartError(f"the architecture record has more than {MAX_SLOTS} weights")
    if len({layer.name for layer in layers}) != len(layers):
        raise PartError("the architecture record names a layer twice")
    architecture = Architecture(
        fingerprint=text(value["fingerprint"]),
        input_shape=tuple(integer(n, 1, MAX_LENGTH) for n in listing(value["input_shape"])),
        head=text(head),
        head_features=integer(features, 1, MAX_LENGTH),
        layers=layers,
        norms=named_lengths(value["norms"]),
        biases=named_lengths(value["biases"]),
        groups=_groups_from_json(value["groups"], {f"{layer.name}.weight": layer.shape for layer in layers}),
        word_bits=integer(value["word_bits"], 1, MAX_WORD_BITS),
        free_parameters=records_from_json(value["free_parameters"]) if "free_parameters" in value else (),
    )
    architecture.kept_features({})  # raises where a group and the record disagree about a length
    for name, length in (*architecture.norms, *architecture.biases):
        architecture.kept_entries({}, name, length)
    for record in architecture.free_parameters:
        kept_of(architecture, {}, record)
    return architecture


def _layer_from_json(value: object) -> CodedLayer:
    name, shape = listing(value, 2)
    layer = CodedLayer(text(name), tuple(integer(n, 1, MAX_SLOTS) for n in listing(shape)))
    if not 1 <= len(layer.shape) <= 8 or layer.size > MAX_SLOTS:
        raise PartError(f"layer `{layer.name}` cannot have shape {layer.shape}")
    return layer


def _groups_from_json(value: object, shapes: Mapping[str, tuple[int, ...]]) -> tuple[StoredGroup, ...]:
    groups = []
    left = MAX_LENGTH  # of indices that all members together may list, whatever few bytes they are written in
    for entry in listing(value):
        name, size, rows = listing(entry, 3)
        size = integer(size, 1, MAX_LENGTH)
        members = []
        for row in listing(rows):
            members.append(_member_from_json(row, size, shapes, left))
            left -= len(members[-1].unit)
        groups.append(StoredGroup(text(name), size, tuple(members)))
    if len({group.name for group in groups}) != len(groups):
        raise PartError("the architecture record names a group twice")
    return tuple(groups)


def _member_from_json(value: object, size: int, shapes: Mapping[str, tuple[int, ...]], most: int) -> GroupMember:
    named, along, units = listing(value, 3)
    parameter, dim = text(named), integer(along, 0, 7)
    shape, number = shapes.get(parameter), _count_units(units, size)
    # Before memory is taken: a few bytes may list millions.
    if number > most:
        raise PartError(f"its unit groups list more than {MAX_LENGTH} indices")
    if shape is not None and (dim >= len(shape) or shape[dim] != number):
        raise PartError(f"the units of dimension {dim} of `{parameter}` do not fit its shape {shape}")
    return GroupMember(parameter, dim, _units_from_json(units, size))


def _units_to_json(unit: NDArray[np.int64], size: int) -> str | int | list[list[int]]:
    if np.array_equal(unit, np.arange(size)):
        return "="
    if len(unit) and len(unit) % size == 0 and np.array_equal(unit, np.repeat(np.arange(size), len(unit) // size)):
        return len(unit) // size
    runs: list[list[int]] = []
    for entry in unit.tolist():
        if runs:
            start, step, count = runs[-1]
            wanted = entry - start if count == 1 else step
            # Only steps 0 and 1 make runs; -1 ("none") may not count up into unit 0.
            if wanted in (0, 1) and entry == start + wanted * count and not (start == -1 and wanted == 1):
                runs[-1] = [start, wanted, count + 1]
                continue
        runs.append([entry, 0, 1])
    return runs


def _count_units(value: object, size: int) -> int:
    """How many indices are listed."""
    if isinstance(value, list):
        return sum(integer(listing(entry, 3)[2], 1, MAX_LENGTH) for entry in value)
    return size * (1 if value == "=" else integer(value, 1, MAX_LENGTH))


def _units_from_json(value: object, size: int) -> NDArray[np.int64]:
    if not isinstance(value, list):
        return np.repeat(np.arange(size), _count_units(value, size) // size)
    runs = []
    for entry in value:
        start, step, count = listing(entry, 3)
        start, step, count = integer(start, -1, size - 1), integer(step, 0, 1), integer(count, 1, MAX_LENGTH)
        if step and (start < 0 or start + count > size):
            raise PartError(f"a run of {count} units from unit {start} leaves the group's {size} units")
        runs.append(start + step * np.arange(count))
    return np.concatenate(runs).astype(np.int64) if runs else np.zeros(0, np.int64)
