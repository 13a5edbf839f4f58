"""Free parameters in a store: who owns one, what it hands down, and the blob.

An owner holds all kept entries of a parameter or nothing of it. What it hands to its children is, entry by entry, the value of the nearest owner in
the chain owner, parent, ..., trunk that keeps the entry. A task whose kept entries all have a value may do without its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import prod

import numpy as np
from numpy.typing import NDArray

from tsn_toolkit.contracts import FreeParameterRecord, FrozenParameter
from tsn_toolkit.errors import StoreError
from tsn_toolkit.numerics.errors import NumericsError
from tsn_toolkit.numerics.vector_rows import decode_rows, encode_rows, rows_size_bytes
from tsn_toolkit.store.fields import integer, listing, text
from tsn_toolkit.store.layout import MAX_SLOTS, Architecture, KeptSlots, UnitMasks
from tsn_toolkit.store.part import BlobReader, PartError
from tsn_toolkit.vocabulary import VectorPrecision

Values = Mapping[str, NDArray[np.float32]]
Records = tuple[FreeParameterRecord, ...]

_MOST_DIMENSIONS = 8


def kept_of(architecture: Architecture, masks: UnitMasks, record: FreeParameterRecord) -> KeptSlots:
    """The entries of a parameter that no dead unit takes away.

    Raises:
        PartError: the record of the architecture contradicts itself about a dimension.
    """
    return architecture.kept_of(masks, record.name, record.shape)


def encode_free_parameters(
    architecture: Architecture, masks: UnitMasks, values: Values, owned: Iterable[FreeParameterRecord], precision: VectorPrecision
) -> bytes:
    """The kept entries of each owned parameter, a vector for each row of them along the last dimension."""
    fields = []
    for record in owned:
        kept = kept_of(architecture, masks, record)
        fields.append(encode_rows(kept.take(values[record.name]).reshape(kept.shape), precision))
    return b"".join(fields)


def decode_free_parameters(
    architecture: Architecture, masks: UnitMasks, blob: BlobReader, owned: Iterable[FreeParameterRecord], precision: VectorPrecision
) -> dict[str, NDArray[np.float32]]:
    """The inverse of `encode_free_parameters`: full shapes, 0 at entries that are not kept.

    Raises:
        PartError: the blob does not fit, or a value is not finite; the message names the parameter.
    """
    values = {}
    for record in owned:
        kept = kept_of(architecture, masks, record)
        length = kept.shape[-1] if kept.shape else 1
        rows = kept.size // length if length else 0
        try:
            data = blob.take(rows_size_bytes(rows, length, precision))
            values[record.name] = kept.spread(decode_rows(data, rows, length, precision))
        except (PartError, NumericsError) as error:
            raise PartError(f"free parameter `{record.name}` of shape {record.shape}: {error}") from error
    blob.finish()
    return values


def overlaid(inherited: Mapping[str, FrozenParameter], architecture: Architecture, masks: UnitMasks, own: Values) -> dict[str, FrozenParameter]:
    """What an owner hands down, from what it inherits and its own values."""
    view = {}
    for record in architecture.free_parameters:
        above = inherited[record.name]
        if record.name in own:
            here = _mask_of(kept_of(architecture, masks, record))
            above = FrozenParameter(np.where(here, own[record.name], above.value), np.asarray(above.present | here))
        view[record.name] = above
    return view


def nothing_inherited(architecture: Architecture) -> dict[str, FrozenParameter]:
    """Below a trunk that holds nothing."""
    return {
        record.name: FrozenParameter(np.zeros(record.shape, np.float32), np.zeros(record.shape, np.bool_)) for record in architecture.free_parameters
    }


def answered_with(view: Mapping[str, FrozenParameter], architecture: Architecture, masks: UnitMasks) -> dict[str, NDArray[np.float32]]:
    """What an owner answers with, from what it hands down: full shapes, 0 at entries of dead units.

    Raises:
        PartError: nobody in its chain holds an entry that it keeps.
    """
    values = {}
    for record in architecture.free_parameters:
        here = _mask_of(kept_of(architecture, masks, record))
        if not view[record.name].present[here].all():
            raise PartError(f"free parameter `{record.name}`: neither the task nor an ancestor holds all of its kept entries")
        values[record.name] = np.where(here, view[record.name].value, np.float32(0))
    return values


def changed_by(architecture: Architecture, masks: UnitMasks, values: Values, inherited: Mapping[str, FrozenParameter]) -> Records:
    """The parameters that a task must own: its values at kept entries are not all those that it inherits."""

    def differs(record: FreeParameterRecord) -> bool:
        kept, above = kept_of(architecture, masks, record), inherited[record.name]
        return not kept.take(above.present).all() or not np.array_equal(kept.take(values[record.name]), kept.take(above.value))

    return tuple(record for record in architecture.free_parameters if record.name in values and differs(record))


def check_free_parameters(where: str, architecture: Architecture, masks: UnitMasks, values: Values, precision: VectorPrecision) -> None:
    """Checks values before they are encoded.

    Raises:
        StoreError: one is unknown, has another shape or kind of numbers, is not 0 at dead units, or cannot be stored exactly.
    """
    records = {record.name: record for record in architecture.free_parameters}
    for name, value in values.items():
        place = f"{where}: free parameter `{name}`"
        if name not in records:
            raise StoreError(f"{place} is not in the store's architecture; it has {sorted(records)}")
        if value.dtype != np.float32 or value.shape != records[name].shape:
            raise StoreError(f"{place} must be float32 {records[name].shape}, got {value.dtype} {value.shape}")
        kept = kept_of(architecture, masks, records[name])
        inside = kept.take(value)
        if np.count_nonzero(value) > np.count_nonzero(inside):
            raise StoreError(f"{place} must hold 0 at entries of dead units, {np.count_nonzero(value) - np.count_nonzero(inside)} are not")
        try:
            encode_rows(inside.reshape(kept.shape), precision)
        except NumericsError as error:
            raise StoreError(f'{place}: {error}. Round it with round_rows(values, "{precision}") first.') from error


def check_complete(where: str, architecture: Architecture, masks: UnitMasks, values: Values, inherited: Mapping[str, FrozenParameter]) -> None:
    """Checks that a task has a value for each kept entry, its own or an inherited one.

    Raises:
        StoreError: it has not.
    """
    for record in architecture.free_parameters:
        if record.name not in values and not kept_of(architecture, masks, record).take(inherited[record.name].present).all():
            raise StoreError(
                f"{where}: free parameter `{record.name}` is left out, but neither the trunk nor an ancestor holds all of its kept entries"
            )


def records_to_json(records: Records) -> list[list[object]]:
    """The architecture's field."""
    return [[record.name, list(record.shape)] for record in records]


def records_from_json(value: object) -> Records:
    """Reads the architecture's field.

    Raises:
        PartError: it is malformed or out of bounds.
    """
    records, left = [], MAX_SLOTS
    for entry in listing(value):
        name, shape = listing(entry, 2)
        record = FreeParameterRecord(text(name), tuple(integer(length, 1, MAX_SLOTS) for length in listing(shape)))
        left -= prod(record.shape)
        if len(record.shape) > _MOST_DIMENSIONS or left < 0:
            raise PartError(
                f"free parameter `{record.name:.80}` cannot have shape {record.shape[:9]}: at most {_MOST_DIMENSIONS} dimensions, all together at "
                f"most {MAX_SLOTS} entries"
            )
        records.append(record)
    if len({record.name for record in records}) != len(records):
        raise PartError("the architecture record names a free parameter twice")
    if not records:
        raise PartError("the architecture record has an empty list of free parameters")
    return tuple(records)


def owned_from_json(architecture: Architecture, value: object) -> Records:
    """The parameters that a task owns, from their positions in the record.

    Raises:
        PartError: a position is unknown, or they do not ascend.
    """
    known, entries = architecture.free_parameters, listing(value)
    if entries and not known:
        raise PartError(f"it owns free parameter {entries[0]!r:.80}, but the architecture record has none")
    positions = [integer(entry, 0, len(known) - 1) for entry in entries]
    if not positions or sorted(set(positions)) != positions:
        raise PartError(f"the positions of its free parameters do not ascend: {positions[:8]}")
    return tuple(known[position] for position in positions)


def owned_to_json(architecture: Architecture, owned: Sequence[FreeParameterRecord]) -> list[int]:
    """Positions in the record."""
    return [architecture.free_parameters.index(record) for record in owned]


def _mask_of(kept: KeptSlots) -> NDArray[np.bool_]:
    """Bool, shape of the parameter."""
    return kept.spread(np.ones(kept.size, np.bool_)).reshape(kept.full)
