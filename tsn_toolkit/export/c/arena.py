"""Addresses of tensors in one static memory area.

Greedy by size with the best fit (Pisarchyk and Lee 2020, https://arxiv.org/abs/2001.03288, algorithm 3): the largest tensor is placed first, each in
the smallest gap that holds it between tensors that live at the same time. Different from the paper, equal sizes are placed in order of their first
use. All values are bytes, so nothing needs alignment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Lifetime:
    """A piece of memory and the steps, both included, between which it is in use."""

    name: str
    size_bytes: int
    first: int
    last: int

    def meets(self, other: Lifetime) -> bool:
        """True where both are in use at one step at least."""
        return self.first <= other.last and other.first <= self.last


@dataclass(frozen=True)
class Arena:
    """Addresses of tensors.

    Attributes:
        offsets: name -> first byte.
        size_bytes: of the whole area.
        lower_bound_bytes: the most bytes that are in use at one step; no plan needs less.
    """

    offsets: dict[str, int]
    size_bytes: int
    lower_bound_bytes: int


def plan_arena(lifetimes: Sequence[Lifetime]) -> Arena:
    """Place every tensor so that no two that are in use at one step overlap.

    >>> plan_arena([Lifetime("a", 4, 0, 1), Lifetime("b", 2, 1, 2), Lifetime("c", 4, 2, 3)]).offsets
    {'a': 0, 'c': 0, 'b': 4}
    """
    placed: list[tuple[Lifetime, int]] = []
    for tensor in sorted(lifetimes, key=lambda item: (-item.size_bytes, item.first, item.name)):
        neighbours = sorted((offset, offset + other.size_bytes) for other, offset in placed if tensor.meets(other))
        placed.append((tensor, _best_gap(neighbours, tensor.size_bytes)))
    steps = {item.first for item in lifetimes}
    bound = max((sum(item.size_bytes for item in lifetimes if item.first <= step <= item.last) for step in steps), default=0)
    size = max((offset + tensor.size_bytes for tensor, offset in placed), default=0)
    return Arena({tensor.name: offset for tensor, offset in placed}, size, bound)


def _best_gap(occupied: list[tuple[int, int]], size: int) -> int:
    """First byte of the smallest gap between sorted, possibly overlapping intervals that holds `size` bytes; else the end of all."""
    best, best_gap, end = None, 0, 0
    for start, stop in occupied:
        gap = start - end
        if gap >= size and (best is None or gap < best_gap):
            best, best_gap = end, gap
        end = max(end, stop)
    return end if best is None else best
