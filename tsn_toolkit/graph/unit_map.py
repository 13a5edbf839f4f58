"""Which units the entries of a tensor belong to, and how shape operations move them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Atoms = NDArray[np.int64]
STAYS = -1
"""In place of an atom: an entry that no unit owns, and that is always there."""


@dataclass(frozen=True)
class UnitMap:
    """Atoms over some dimensions of a tensor: an entry is there as long as all atoms at its place are.

    Attributes:
        shape: of the tensor.
        factors: int64 arrays of as many dimensions as the tensor; each dimension has the tensor's length, or 1 where the atom does not depend on it.
            No dimension is covered by two factors. The output (1, 5, 8) of a linear layer has one factor (1, 1, 8), features (1, 2, 5, 4) of two
            heads have one of (1, 2, 1, 4).
        parameter: whether it is computed from parameters and constants alone.
    """

    shape: tuple[int, ...]
    factors: tuple[Atoms, ...] = ()
    parameter: bool = False

    def each(self, change: Callable[[Atoms], Atoms], shape: Sequence[int]) -> UnitMap:
        """The map of `shape` whose factors are `change` of these; factors that cover nothing are dropped."""
        factors = tuple(factor for factor in map(change, self.factors) if factor.size > 1)
        return UnitMap(tuple(shape), factors, self.parameter)

    def permuted(self, order: Sequence[int]) -> UnitMap:
        """Dimensions in another order."""
        order = [dim % len(self.shape) for dim in order]
        return self.each(lambda factor: factor.transpose(order), [self.shape[dim] for dim in order])

    def aligned(self, ndim: int) -> UnitMap:
        """With dimensions of length 1 in front, as broadcasting adds them."""
        missing = (1,) * (ndim - len(self.shape))
        return self.each(lambda factor: factor.reshape(missing + factor.shape), missing + self.shape) if missing else self

    def taken(self, dim: int, index: slice | int) -> UnitMap:
        """A slice (the dimension stays) or one entry (it goes) of one dimension."""
        entries = range(self.shape[dim])[index]
        middle = (len(entries),) if isinstance(entries, range) else ()

        def take(factor: Atoms) -> Atoms:
            where = index if factor.shape[dim] > 1 else (slice(None) if middle else 0)
            return factor[(slice(None),) * dim + (where,)]

        return self.each(take, self.shape[:dim] + middle + self.shape[dim + 1 :])

    def covering(self, dims: Sequence[int]) -> tuple[Atoms, ...]:
        """The factors that depend on one of `dims`."""
        return tuple(factor for factor in self.factors if any(factor.shape[dim] > 1 for dim in dims))


def shape_blocks(source: Sequence[int], target: Sequence[int]) -> list[tuple[range, range]]:
    """The smallest runs of dimensions that a reshape of `source` into `target` turns into one another."""
    blocks, i, j = [], 0, 0
    while i < len(source) or j < len(target):
        start, left, right = (i, j), 1, 1
        while True:
            if i < len(source) and (left <= right or j == len(target)):
                left, i = left * source[i], i + 1
            elif j < len(target):
                right, j = right * target[j], j + 1
            if left == right and i > start[0] and j > start[1]:
                break
            if i == len(source) and j == len(target):
                break
        blocks.append((range(start[0], i), range(start[1], j)))
    return blocks


def reshaped(factor: Atoms, source: Sequence[int], target: Sequence[int]) -> Atoms:
    """One factor of a tensor of shape `source` after its reshape to `target`."""
    middle: list[int] = []
    final: list[int] = []
    for old, new in shape_blocks(source, target):
        covered = any(factor.shape[dim] > 1 for dim in old)
        middle += [source[dim] if covered else 1 for dim in old]
        final += [target[dim] if covered else 1 for dim in new]
    result = np.broadcast_to(factor, middle).reshape(final)
    for dim in range(result.ndim):
        first = result.take([0], axis=dim)
        if result.shape[dim] > 1 and np.array_equal(np.broadcast_to(first, result.shape), result):
            result = first
    return result


def overlap(one: Atoms, other: Atoms) -> bool:
    """Whether two aligned factors depend on a common dimension."""
    return any(a > 1 and b > 1 for a, b in zip(one.shape, other.shape, strict=True))


def first_along(factor: Atoms, dims: Sequence[int], *, keep: bool = True) -> Atoms:
    """The entries at index 0 of `dims`."""
    return factor[tuple((slice(0, 1) if keep else 0) if dim in dims else slice(None) for dim in range(factor.ndim))]
