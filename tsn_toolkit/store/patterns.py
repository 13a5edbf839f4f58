"""Marks that stand in patterns: blocks of k consecutive slots, and n of every m.

Both count along rows: the kept slots of one output channel, in C order. The last block or group of a row may be shorter; a short group of L slots
marks min(n, L) of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tsn_toolkit.store.known_slots import Contexts, KnownSlots
from tsn_toolkit.store.mask_runs import Exchange


@dataclass(frozen=True)
class Runs:
    """Consecutive slots of a row that belong together.

    Attributes:
        first: index of the first slot of each.
        lengths: slots of each.
    """

    first: NDArray[np.int64]
    lengths: NDArray[np.int64]

    @classmethod
    def of(cls, known: KnownSlots, length: int) -> Runs:
        """All runs of at most `length` slots of a layer."""
        starts = np.arange(0, known.row_length, length)
        rows = known.size // known.row_length if known.size else 0
        first = (np.arange(rows)[:, None] * known.row_length + starts).reshape(-1)
        return cls(first, np.tile(np.diff(starts, append=known.row_length), rows))


def exchange_blocks(known: KnownSlots, size: int, marks: NDArray[np.bool_], depth: int, exchange: Exchange) -> NDArray[np.bool_]:
    """Marks of all slots (n,), one bit per block, in the context of its first slot."""
    if known.row_length % size == 0:
        bits = exchange.by_context(known.at(slice(None, None, size)).contexts(depth), 2 << depth, marks[::size].view(np.uint8))
        return np.repeat(bits.view(np.bool_), size) if size > 1 else bits.view(np.bool_)
    blocks = Runs.of(known, size)
    bits = exchange.by_context(known.at(blocks.first).contexts(depth), 2 << depth, marks[blocks.first].view(np.uint8))
    return np.repeat(bits.view(np.bool_), blocks.lengths)


def exchange_choices(known: KnownSlots, keep: int, group: int, marks: NDArray[np.bool_], depth: int, exchange: Exchange) -> NDArray[np.bool_]:
    """Marks of all slots (n,): first those of the first slot of every group, then of the second, and so on, where they are still open.

    The context of a slot is (slots left * (keep + 1) + marks left) * (2 << depth) + its own, left being counted from the slot on.
    """
    groups = Runs.of(known, group)
    marked = marks.copy()
    marks_left = np.minimum(keep, groups.lengths)
    for position in range(group):
        there = np.flatnonzero(groups.lengths > position)
        slots, slots_left, open_marks = groups.first[there] + position, groups.lengths[there] - position, marks_left[there]
        marked[slots[open_marks == 0]] = False
        marked[slots[open_marks == slots_left]] = True
        undecided = (open_marks > 0) & (open_marks < slots_left)
        extra = slots_left[undecided] * (keep + 1) + open_marks[undecided]
        slots_undecided = slots[undecided]
        own = known.at(slots_undecided).contexts(depth)
        numbers = choice_contexts(keep, group) << depth + 1
        wide = extra << depth + 1 | own
        contexts: Contexts = wide.astype(np.uint16) if numbers <= 1 << 16 else wide.astype(np.uint32)
        marked[slots_undecided] = exchange.by_context(contexts, numbers, marked[slots_undecided].view(np.uint8))
        marks_left[there] -= marked[slots]
    return marked


def choice_contexts(keep: int, group: int) -> int:
    """Upper bound of the number of pairs (slots left, marks left)."""
    return (group + 1) * (keep + 1)


def fit_blocks(known: KnownSlots, size: int, marks: NDArray[np.bool_]) -> bool:
    """Whether no block is marked in part."""
    blocks = Runs.of(known, size)
    return bool(np.array_equal(np.repeat(marks[blocks.first], blocks.lengths), marks))


def fit_choices(known: KnownSlots, keep: int, group: int, marks: NDArray[np.bool_]) -> bool:
    """Whether every group marks as many slots as it must."""
    groups = Runs.of(known, group)
    if not len(groups.first):
        return True
    return bool(np.array_equal(np.add.reduceat(marks.view(np.uint8), groups.first, dtype=np.int64), np.minimum(keep, groups.lengths)))
