"""What is known of atoms: which are one unit, which stay, and which shapes must come out when units go.

An atom is one index of one dimension of one parameter. Rules (`rules.py`) join the atoms that exist only together; a set of joined atoms is a unit.
Statements that can only be judged when all joins are known (two kinds of units cross a reshape, a softmax runs over units) are noted and judged last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tsn_toolkit.graph.unit_map import STAYS, Atoms, UnitMap, first_along, overlap


@dataclass(frozen=True)
class Reason:
    """Why atoms stay: a sentence, and the operation (a node of the exported graph) that says so."""

    text: str
    node: Any


@dataclass(frozen=True)
class Count:
    """A number in the code of a module that may count units: the length of one dimension at one operation.

    Attributes:
        module: path of the module that ran the operation.
        length: the number.
        factor: the atoms of the operation's output.
        dim: the dimension of `factor` that has this length.
    """

    module: str
    length: int
    factor: Atoms
    dim: int


@dataclass(frozen=True)
class Product:
    """Multiply-accumulates of one product, evenly spread over a grid; an entry is there as long as all atoms at its place are.

    Attributes:
        node: name of the operation.
        macs: for the batch that was traced.
        factors: atoms over parts of the grid, as of a `UnitMap`.
    """

    node: str
    macs: int
    factors: tuple[Atoms, ...]


@dataclass
class Couplings:
    """Collects joins and statements; `resolve` turns them into units.

    Attributes:
        node: the operation that is being read; reasons name it.
        counts: numbers in the code that may count units.
        products: everything that was multiplied.
    """

    node: Any = None
    counts: list[Count] = field(default_factory=list)
    products: list[Product] = field(default_factory=list)
    _edges: list[tuple[Atoms, Atoms]] = field(default_factory=list)
    _weak: list[tuple[Atoms, Atoms, Reason]] = field(default_factory=list)
    _grids: list[Atoms] = field(default_factory=list)
    _fixed: list[tuple[Atoms, tuple[int, ...], Reason]] = field(default_factory=list)

    def join(self, one: Atoms, other: Atoms) -> None:
        """Atoms at the same place (after broadcasting) exist only together; beside an entry that stays, an atom stays."""
        if one is other:
            return
        one, other = (array.reshape(-1) for array in np.broadcast_arrays(one, other))
        stays = (one == STAYS) | (other == STAYS)
        if stays.any():
            self.freeze(np.maximum(one, other)[stays], "its units meet entries that cannot go")
            one, other = one[~stays], other[~stays]
        self._edges.append((one, other))

    def join_along(self, factor: Atoms, dim: int) -> None:
        """Atoms along `dim` exist only together."""
        if factor.shape[dim] > 1:
            self.join(first_along(factor, [dim]), factor)

    def freeze(self, atoms: Atoms, text: str) -> None:
        """These atoms stay."""
        flat = atoms.reshape(-1)
        self._fixed.append((flat, (), Reason(text, self.node)))

    def fix_along(self, factor: Atoms, dims: Sequence[int], text: str) -> None:
        """Units may not differ along `dims`, or they stay: the operation needs all entries there."""
        dims = tuple(dim for dim in dims if factor.shape[dim] > 1)
        if dims:
            self._fixed.append((factor, dims, Reason(text, self.node)))

    def count(self, module: str, length: int, factor: Atoms, dim: int) -> None:
        """Code of `module` reads a dimension that has this length as long as no unit went."""
        self.counts.append(Count(module, length, factor, dim))

    def multiply(self, macs: int, *factors: Atoms | None) -> None:
        """The operation multiplies over a grid with these factors (None: a part of the grid that no unit covers)."""
        self.products.append(Product(self.node.name, macs, tuple(factor for factor in factors if factor is not None)))

    def keep_grid(self, factor: Atoms) -> None:
        """What stays of `factor` must be a full grid, because code reads it with one length per dimension."""
        if sum(length > 1 for length in factor.shape) > 1:
            self._grids.append(factor)

    def combine(self, maps: Sequence[UnitMap], shape: Sequence[int]) -> UnitMap:
        """The map of an operation that broadcasts its operands entry by entry."""
        aligned = [item.aligned(len(shape)) for item in maps]
        factors: list[Atoms] = []
        for item in sorted(aligned, key=lambda item: item.parameter):
            for factor in item.factors:
                factors = self._merged(factors, factor, item.parameter)
        for factor in factors:
            for item in aligned:
                covered = [dim for dim, length in enumerate(factor.shape) if length > 1 and item.shape[dim] > 1]
                if covered and not item.covering(covered):
                    self.fix_along(factor, covered, "its units meet a tensor whose entries cannot go")
        owners = [item for item in maps if item.factors]
        return UnitMap(tuple(shape), tuple(factors), bool(owners) and all(item.parameter for item in owners))

    def _merged(self, factors: list[Atoms], factor: Atoms, parameter: bool) -> list[Atoms]:
        """`factors` with one more; factors that overlap become one."""
        apart = [other for other in factors if not overlap(other, factor)]
        for other in factors:
            if not overlap(other, factor) or other is factor:
                continue
            inside = all(a <= b for a, b in zip(factor.shape, other.shape, strict=True))
            if parameter and inside and factor.shape != other.shape:
                # a parameter that all heads share: either its entries are units like theirs, or whole heads go and it stays; known at the end
                self._weak.append((factor, other, Reason("it is shared by units that go as a whole", self.node)))
                factor = other
                continue
            self.join(other, factor)
            factor = first_along(factor, [dim for dim, length in enumerate(other.shape) if length == 1])
        return [*apart, factor]

    def resolve(self, atoms: int) -> tuple[Atoms, Atoms, tuple[Reason, ...]]:
        """(unit of every atom, named by its smallest atom; for every unit the number of the first reason why it stays, or -1; the reasons)."""
        unit = self._joined(atoms)
        while self._decide_grids(unit):
            unit = self._joined(atoms)
        while self._decide_weak(unit):
            unit = self._joined(atoms)
            while self._decide_grids(unit):
                unit = self._joined(atoms)
        why = np.full(atoms + 1, -1, dtype=np.int64)  # the last entry takes what entries that stay would write
        for number, (factor, dims, _) in reversed(list(enumerate(self._fixed))):
            units = unit_at(unit, factor)
            if not dims or not constant_along(units, dims):
                why[units.reshape(-1)] = number
        return unit, why[:-1], tuple(reason for _, _, reason in self._fixed)

    def _joined(self, atoms: int) -> Atoms:
        """Units after all joins; the joins are replaced by shorter ones that say the same."""
        if not self._edges:
            return np.arange(atoms, dtype=np.int64)
        unit = components(atoms, *(np.concatenate(side) for side in zip(*self._edges, strict=True)))
        moved = np.flatnonzero(unit != np.arange(atoms))
        self._edges = [(moved, unit[moved])]
        return unit

    def _decide_grids(self, unit: Atoms) -> bool:
        """Join what must go together for every grid to stay one: along all dimensions but the longest. Whether anything was joined."""
        grids, self._grids = self._grids, []
        changed = False
        for factor in grids:
            units = unit_at(unit, factor)
            lengths = [length if length > 1 else 0 for length in units.shape]
            if any(constant_along(units, [other for other in range(units.ndim) if other != dim]) for dim in range(units.ndim)):
                self._grids.append(factor)
                continue
            longest = int(np.argmax(lengths))
            for dim in range(units.ndim):
                if dim != longest:
                    self.join_along(factor, dim)
            changed = True
        return changed

    def _decide_weak(self, unit: Atoms) -> bool:
        """Settle the shared parameters of which the units are known by now. Whether anything was joined."""
        weak, self._weak = self._weak, []
        for small, large, reason in weak:
            shared = [dim for dim, length in enumerate(small.shape) if length > 1]
            if constant_along(unit_at(unit, large), shared):
                self._fixed.append((small.reshape(-1), (), reason))
            else:
                self.join(small, large)
        return bool(weak)


def unit_at(unit: Atoms, factor: Atoms) -> Atoms:
    """Units of a factor's atoms; what stays remains marked."""
    return np.where(factor == STAYS, STAYS, unit[factor])


def constant_along(units: Atoms, dims: Sequence[int]) -> bool:
    """Whether the units do not depend on `dims`."""
    return bool((units == first_along(units, list(dims))).all())


def components(count: int, one: NDArray[np.int64], other: NDArray[np.int64]) -> NDArray[np.int64]:
    """Smallest node connected with each of `count` nodes, given edges: every root hooks to its smallest neighbour until no edge is left."""
    root = np.arange(count, dtype=np.int64)
    while True:
        a, b = root[one], root[other]
        apart = a != b
        if not apart.any():
            return root
        one, other, a, b = one[apart], other[apart], a[apart], b[apart]
        np.minimum.at(root, np.maximum(a, b), np.minimum(a, b))
        while not np.array_equal(root[root], root):
            root = root[root]
