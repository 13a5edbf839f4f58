"""Weights as they lie in flash: codes below 8 bits, and only at the slots that have a value.

A layer of (rows, length) slots is stored in whichever of these forms takes the fewest bytes:

    places   codes                             decoded
    every    int8 weights                      read in place
    every    b bits per slot and a codebook    row by row
    bitmap   b bits per value, a bit per slot  row by row; the other slots keep what lies under them
    gaps     b bits per value, a byte per gap  likewise; byte g: g slots lie between this value and the one before, 255: 255 slots and no value

Values may lie over others (`under`): a task's own values over those of the trunk, which are stored once however many tasks read them. Where nothing
lies under a slot, it is 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tsn_toolkit.errors import ExportError
from tsn_toolkit.numerics.bits import pack_bits, unpack_bits

Places: TypeAlias = Literal["every", "bitmap", "gaps"]
PLACES: tuple[Places, ...] = ("every", "bitmap", "gaps")
_MAX_CODE_BITS = 2**32 - 8
_SKIP = 255


@dataclass(frozen=True)
class Values:
    """Values of some slots of a layer.

    Attributes:
        places: which slots have a value.
        codes: int8 values, or uint8 with codes of `bits` bits (see `numerics.bits`).
        codebook: int8, the value of each code, ascending; None where `codes` are the values.
        bits: per code.
        where: uint8, the bitmap (least significant bit first) or the gaps; None where every slot has a value.
        starts: uint32 (rows + 1,), codes before each row; None where every slot has a value.
        shape: (rows, length) of the layer's slots.
        under: what the other slots hold; None: 0.
    """

    places: Places
    codes: NDArray[np.int8] | NDArray[np.uint8]
    codebook: NDArray[np.int8] | None
    bits: int
    where: NDArray[np.uint8] | None
    starts: NDArray[np.uint32] | None
    shape: tuple[int, int]
    under: Values | None = None

    @property
    def size_bytes(self) -> int:
        """Bytes of the arrays, those of `under` not among them."""
        arrays = (self.codes, self.codebook, self.where, self.starts)
        return sum(array.nbytes for array in arrays if array is not None)

    @property
    def read_in_place(self) -> bool:
        """Whether a row needs no decoding."""
        return self.places == "every" and self.codebook is None

    def lineage(self) -> Iterator[Values]:
        """These values and all that lie under them, from the top."""
        values: Values | None = self
        while values is not None:
            yield values
            values = values.under


def pack_values(q: NDArray[np.int8], present: NDArray[np.bool_] | None = None, *, where: str, under: Values | None = None) -> Values:
    """The form with the fewest bytes.

    Args:
        q: int8 (rows, length).
        present: bool (rows, length), slots whose value is stored, at least one; None: those that are not 0 must be, the others may be.
        where: the layer, for the message.
        under: what the other slots hold.

    Raises:
        ExportError: the layer has 2**32 bits or more, beyond what the program's positions can hold.
    """
    if q.size * 8 > _MAX_CODE_BITS:
        raise ExportError(f"Layer `{where}` has {q.size} weights. A C program holds at most {_MAX_CODE_BITS // 8} in a layer; shrink it further.")
    forms = []
    if present is None or present.all():
        forms.append(_with_codes("every", q, q.reshape(-1), None, None, under))
    chosen = q != 0 if present is None else present
    if chosen.any() and not chosen.all():
        forms.append(_bitmap(q, chosen, under))
        forms.append(_gaps(q, chosen, under))
    return min(forms, key=lambda form: form.size_bytes)


def unpack_values(values: Values) -> NDArray[np.int8]:
    """int8 (rows, length), with what lies under the values."""
    q = np.zeros(values.shape, np.int8) if values.under is None else unpack_values(values.under)
    flat = q.reshape(-1)
    if values.places == "every":
        flat[:] = _decoded(values, flat.size)
        return q
    assert values.where is not None and values.starts is not None
    decoded = _decoded(values, int(values.starts[-1]))
    if values.places == "bitmap":
        flat[unpack_bits(values.where.tobytes(), 1, flat.size).astype(bool)] = decoded
        return q
    for row, (first, last) in enumerate(zip(values.starts[:-1], values.starts[1:])):
        steps = values.where[first:last].astype(np.int64)
        ends = np.cumsum(np.where(steps == _SKIP, _SKIP, steps + 1)) - 1
        kept = steps != _SKIP
        q[row, ends[kept]] = decoded[first:last][kept]
    return q


def _bitmap(q: NDArray[np.int8], chosen: NDArray[np.bool_], under: Values | None) -> Values:
    where = np.frombuffer(pack_bits(chosen.reshape(-1), 1), np.uint8)
    return _with_codes("bitmap", q, q[chosen], where, _starts(chosen.sum(1)), under)


def _gaps(q: NDArray[np.int8], chosen: NDArray[np.bool_], under: Values | None) -> Values:
    gaps: list[int] = []
    entries: list[int] = []
    counts = []
    for row, slots in enumerate(chosen):
        before, last = len(gaps), -1
        for slot in np.flatnonzero(slots).tolist():
            skips, gap = divmod(slot - last - 1, _SKIP)
            value = int(q[row, slot])
            gaps += [_SKIP] * skips + [gap]
            entries += [value] * (skips + 1)  # the code of a skip is read over; an own value keeps the codebook as it is
            last = slot
        counts.append(len(gaps) - before)
    return _with_codes("gaps", q, np.array(entries, np.int8), np.array(gaps, np.uint8), _starts(np.array(counts)), under)


def _starts(counts: NDArray[np.int64]) -> NDArray[np.uint32]:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.uint32)


def _with_codes(
    places: Places,
    q: NDArray[np.int8],
    entries: NDArray[np.int8],
    where: NDArray[np.uint8] | None,
    starts: NDArray[np.uint32] | None,
    under: Values | None,
) -> Values:
    """Entries as codes of as few bits as tell them apart, or as they are where that takes no more bytes."""
    shape = (q.shape[0], q.shape[1])
    codebook, positions = np.unique(entries, return_inverse=True)
    bits = max(1, math.ceil(math.log2(len(codebook))))
    packed = np.frombuffer(pack_bits(positions.reshape(-1), bits), np.uint8)
    if bits >= 8 or packed.size + codebook.size >= entries.size:
        return Values(places, entries, None, 8, where, starts, shape, under)
    return Values(places, packed, codebook, bits, where, starts, shape, under)


def _decoded(values: Values, count: int) -> NDArray[np.int8]:
    if values.codebook is None:
        return values.codes.view(np.int8)
    decoded: NDArray[np.int8] = values.codebook[unpack_bits(values.codes.tobytes(), values.bits, count)]
    return decoded
