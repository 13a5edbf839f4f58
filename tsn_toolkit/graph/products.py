"""Which units the multiply-accumulates outside the codable layers go with: attention, weights stored as (in, out), transposed convolutions."""

from __future__ import annotations

from collections.abc import Container, Sequence

import numpy as np

from tsn_toolkit.contracts import ProductFactor, ProductRecord, UnitGroup
from tsn_toolkit.graph.couplings import unit_at
from tsn_toolkit.graph.flow import Units
from tsn_toolkit.graph.unit_map import Atoms


def find_products(units: Units, groups: Sequence[UnitGroup], counted: Container[str]) -> tuple[ProductRecord, ...]:
    """The products that shrink when units of a group that is not frozen go, in execution order.

    Args:
        units: of the exported graph.
        groups: in their final state.
        counted: names of operations to leave out, because a layer's weight accounts for them.
    """
    group_of, index_of = _places(units, groups)
    found = []
    for product in units.products:
        if product.node not in counted:
            factors = [_factor(unit_at(units.unit, atoms), group_of, index_of, groups) for atoms in product.factors]
            if any(factor.units for factor in factors):
                found.append(ProductRecord(product.node, product.macs, tuple(factor for factor in factors if factor.units)))
    return tuple(found)


def _places(units: Units, groups: Sequence[UnitGroup]) -> tuple[Atoms, Atoms]:
    """Group number (-1: none that may go) and index within the group of every unit; the last entry serves entries that stay."""
    group_of, index_of = (np.full(len(units.unit) + 1, -1, dtype=np.int64) for _ in range(2))
    for number, group in enumerate(groups):
        for member in () if group.frozen else group.members:
            held = member.unit >= 0
            places = units.unit[units.atoms[member.parameter, member.dim]][held]
            group_of[places], index_of[places] = number, member.unit[held]
    return group_of, index_of


def _factor(units: Atoms, group_of: Atoms, index_of: Atoms, groups: Sequence[UnitGroup]) -> ProductFactor:
    numbers, indices = group_of[units], index_of[units]
    met = np.unique(numbers[numbers >= 0]).tolist()
    return ProductFactor(units.size, {groups[n].name: np.bincount(indices[numbers == n], minlength=groups[n].size) for n in met})
