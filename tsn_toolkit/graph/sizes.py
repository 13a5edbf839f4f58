"""Whole numbers in the user's modules that count units: found in the graph, set on a shrunk copy.

`view(n, length, self.num_heads, self.head_dim)` reads a number that must shrink with the heads. The graph knows the lengths at that operation, so the
module's attributes that equal one of them are the ones that shrink. What was found is proved by running the shrunk model.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from torch import nn

from tsn_toolkit.contracts import ModelGraph, SizeMember
from tsn_toolkit.graph.couplings import Count, unit_at
from tsn_toolkit.graph.layers import is_transposed_linear
from tsn_toolkit.graph.unit_map import STAYS, Atoms, first_along
from tsn_toolkit.graph.units import UnitMasks

PER_HEAD = re.compile(r"head_?(dim|size|width|features|channels)|(dim|size|width|features|channels)_(per_)?head|d_(k|v|kv|head)$")
"""Names of the width of one head, which stays when heads go."""


def find_sizes(model: nn.Module, counts: Sequence[Count], unit: Atoms, group_of: Atoms, index_of: Atoms) -> dict[int, tuple[SizeMember, ...]]:
    """Group number -> the numbers that shrink with it.

    Args:
        model: the pristine model.
        counts: lengths at operations.
        unit: unit of every atom.
        group_of: group number of every unit, -1 where units stay.
        index_of: number of every unit within its group.
    """
    modules = dict(model.named_modules())
    claims: dict[tuple[str, str], list[Atoms]] = {}
    for count in counts:
        module = modules.get(count.module)
        for attribute in _numbers(module, count.length) if module is not None else ():
            vector = _vector(unit, count)
            if vector is not None and (group_of[vector[vector != STAYS]] >= 0).any():
                known = claims.setdefault((count.module, attribute), [])
                if not any(np.array_equal(vector, other) for other in known):
                    known.append(vector)
    found: dict[int, list[SizeMember]] = {}
    for (path, attribute), vectors in sorted(claims.items(), key=lambda item: item[0]):
        if len(vectors) > 1:
            continue  # one number, two meanings: left alone, so that running decides
        groups = np.where(vectors[0] == STAYS, -1, group_of[vectors[0]])
        for group in np.unique(groups[groups >= 0]).tolist():
            found.setdefault(group, []).append(SizeMember(path, attribute, np.where(groups == group, index_of[vectors[0]], -1)))
    return {group: tuple(members) for group, members in found.items()}


def _numbers(module: nn.Module, length: int) -> Iterator[str]:
    """Attributes of a module that hold this whole number and may count units."""
    if type(module).__module__.startswith("torch.nn."):
        if isinstance(module, nn.GroupNorm) and module.num_groups == length:
            yield "num_groups"
        return  # torch's other layers follow their weights
    if is_transposed_linear(module):
        return
    for name, value in vars(module).items():
        if type(value) is int and value == length and not PER_HEAD.search(name):
            yield name


def _vector(unit: Atoms, count: Count) -> Atoms | None:
    """Units along the counted dimension; None when they also differ along another."""
    units = unit_at(unit, count.factor)
    others = [dim for dim in range(units.ndim) if dim != count.dim]
    first = first_along(units, others)
    return first.reshape(-1) if (units == first).all() else None


def set_sizes_(model: nn.Module, graph: ModelGraph, unit_masks: UnitMasks) -> None:
    """Set the numbers that count units of the masked groups to what is left."""
    for (path, attribute), stays in kept_counts(graph, unit_masks).items():
        setattr(model.get_submodule(path), attribute, int(stays.sum()))


def kept_counts(graph: ModelGraph, unit_masks: UnitMasks) -> Mapping[tuple[str, str], np.ndarray]:
    """(module, attribute) -> bool array over the counted things, True = stays."""
    kept: dict[tuple[str, str], np.ndarray] = {}
    for group in graph.groups:
        if group.name in unit_masks:
            alive = np.append(np.asarray(unit_masks[group.name], dtype=np.bool_), True)
            for member in group.sizes:
                key = member.module, member.attribute
                kept[key] = kept[key] & alive[member.unit] if key in kept else alive[member.unit]
    return kept
