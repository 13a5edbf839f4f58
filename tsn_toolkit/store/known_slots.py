"""What is known of a layer's kept slots before a task's own mask is read, and bits grouped by it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tsn_toolkit.numerics.counting import count_numbers
from tsn_toolkit.numerics.packed_codes import PackedCodes

_CHUNK = 1 << 15
"""Slots grouped at a time: few enough to stay in a processor's cache."""

_FEW, _FEW_CHUNK = 8, 1 << 13
"""Most contexts that are merged one at a time, and slots at a time: their positions take 64 KiB."""

Contexts = NDArray[np.unsignedinteger[Any]]


@dataclass(frozen=True)
class KnownSlots:
    """The kept slots of one layer as its parent leaves them; flat arrays in C order.

    Slots that share an input and an output, or a block, mostly share their states too. So an entry may stand for a patch: `grain` consecutive slots
    of a row of which the same is known.

    Attributes:
        present: bool (n,), the frozen view holds a value.
        history: uint8 (n,), bit 7 says that the parent uses the slot, bit 6 that its parent does, and so on.
        row_length: entries of one output channel.
        grain: slots that each entry stands for; a divisor of the slots of a row.
    """

    present: NDArray[np.bool_]
    history: NDArray[np.uint8]
    row_length: int
    grain: int = 1

    @property
    def size(self) -> int:
        """Number of entries."""
        return len(self.present)

    def contexts(self, depth: int) -> NDArray[np.uint8]:
        """present + 2 * (which of the `depth` nearest ancestors use the slot, the nearest in the highest bit): (n,) below 2 << depth."""
        if depth == 0:
            return self.present.view(np.uint8)
        contexts: NDArray[np.uint8] = self.history >> np.uint8(8 - depth)
        contexts <<= 1
        contexts |= self.present
        return contexts

    def used_by_parent(self) -> NDArray[np.bool_]:
        """Slots that the parent uses: bool (n,)."""
        return np.asarray(self.history >= 0x80, np.bool_)

    def at(self, slots: Any) -> KnownSlots:
        """The same of some slots only."""
        return KnownSlots(self.present[slots], self.history[slots], self.row_length, self.grain)

    def refined(self, grain: int) -> KnownSlots:
        """The same in smaller patches; `grain` is a divisor of the present one. Arrays are shared where nothing changes."""
        times = self.grain // grain
        if times == 1:
            return self
        return KnownSlots(np.repeat(self.present, times), np.repeat(self.history, times), self.row_length * times, grain)


def count_contexts(contexts: Contexts, numbers: int) -> NDArray[np.int64]:
    """How often each of the numbers 0..numbers-1 occurs: int64 (numbers,)."""
    if contexts.dtype == np.uint8 and numbers <= 256:
        return count_numbers(contexts.view(np.uint8), numbers)
    return np.bincount(contexts, minlength=numbers)


def split_by(contexts: Contexts, values: NDArray[np.uint8], occurring: Sequence[int]) -> list[NDArray[np.uint8]]:
    """Values (n,) of each context that occurs, in order."""
    if len(occurring) == 1:
        return [values]
    parts: dict[int, list[NDArray[np.uint8]]] = {number: [] for number in occurring}
    for chunk, order, runs in _chunks(contexts):
        grouped = values[chunk][order]
        for number, start, end in runs:
            parts[number].append(grouped[start:end])
    return [np.concatenate(parts[number]) for number in occurring]


def merge_by(contexts: Contexts, groups: Sequence[PackedCodes], occurring: Sequence[int]) -> NDArray[np.uint8]:
    """The inverse of `split_by`: bits (n,)."""
    if len(occurring) == 1:
        return groups[0].codes()
    return _merge_few(contexts, groups, occurring) if len(occurring) <= _FEW else _merge_sorted(contexts, groups, occurring)


def _merge_few(contexts: Contexts, groups: Sequence[PackedCodes], occurring: Sequence[int]) -> NDArray[np.uint8]:
    """One pass for each context that occurs, which is faster than sorting as long as they are few."""
    merged = np.empty(len(contexts), np.uint8)
    numbers, taken = np.array(occurring, contexts.dtype), [0] * len(groups)
    for start in range(0, len(contexts), _FEW_CHUNK):
        chunk, into = contexts[start : start + _FEW_CHUNK], merged[start : start + _FEW_CHUNK]
        for index, number in enumerate(numbers):
            places = (chunk == number).nonzero()[0]
            first = taken[index]
            taken[index] += len(places)
            into[places] = groups[index].bits(first, taken[index])
    return merged


def _merge_sorted(contexts: Contexts, groups: Sequence[PackedCodes], occurring: Sequence[int]) -> NDArray[np.uint8]:
    merged = np.empty(len(contexts), np.uint8)
    values, taken = dict(zip(occurring, groups, strict=True)), dict.fromkeys(occurring, 0)
    for chunk, order, runs in _chunks(contexts):
        pieces = []
        for number, start, end in runs:
            first = taken[number]
            taken[number] += end - start
            pieces.append(values[number].bits(first, taken[number]))
        merged[chunk][order] = np.concatenate(pieces)
    return merged


def _chunks(contexts: Contexts) -> Iterator[tuple[slice, NDArray[np.intp], list[tuple[int, int, int]]]]:
    """Pieces of the slots: which, their order by context, and (number, start, end) of each context in that order."""
    for start in range(0, len(contexts), _CHUNK):
        chunk = slice(start, start + _CHUNK)
        order = np.argsort(contexts[chunk], kind="stable")
        ordered = contexts[chunk][order]
        starts = [0, *(np.flatnonzero(ordered[1:] != ordered[:-1]) + 1).tolist()]
        ends = [*starts[1:], len(order)]
        yield chunk, order, list(zip(ordered[starts].tolist(), starts, ends, strict=True))
