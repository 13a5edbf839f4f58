"""How many units every group keeps under a budget of multiply-accumulates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil

import numpy as np
from numpy.typing import NDArray

from tsn_toolkit.contracts import ModelGraph, UnitGroup
from tsn_toolkit.errors import PlanError
from tsn_toolkit.importance.ranking.checked import checked_scores
from tsn_toolkit.plan.macs import macs_after

BISECTIONS = 40
STEPS_PER_GROUP = 64
"""Large groups lose up to 1/64 of their units per greedy step."""


def rounded_keep(fraction: float, size: int, *, min_units: int, multiple: int) -> int:
    """Nearest number of units to `fraction` of `size`, at least `min_units`, rounded up to `multiple`, at most `size`.

    >>> rounded_keep(0.5, 48, min_units=1, multiple=1), rounded_keep(0.1, 24, min_units=4, multiple=8), rounded_keep(0.9, 20, min_units=1, multiple=8)
    (24, 8, 20)
    """
    wanted = max(min_units, round(fraction * size), 1)
    return min(size, ceil(wanted / multiple) * multiple)


def uniform_keep(
    graph: ModelGraph, groups: Sequence[UnitGroup], fixed: Mapping[str, int], *, target_macs: float, min_units: int, multiple: int
) -> dict[str, int]:
    """The largest common fraction of units of `groups` within the budget, by bisection.

    Args:
        graph: of the full model.
        groups: those that are free to shrink.
        fixed: number of units of the others that shrink.
        target_macs: fraction of the dense multiply-accumulates that may stay.
        min_units: units that stay in every group at least.
        multiple: numbers of units are rounded up to it.

    Raises:
        PlanError: if even the smallest groups exceed the budget.
    """

    def keep_at(fraction: float) -> dict[str, int]:
        return {group.name: rounded_keep(fraction, group.size, min_units=min_units, multiple=multiple) for group in groups}

    budget = target_macs * graph.macs
    if macs_after(graph, {**fixed, **keep_at(1.0)}) <= budget:
        return keep_at(1.0)
    low, high = 0.0, 1.0
    _check_reachable(graph, {**fixed, **keep_at(low)}, target_macs)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if macs_after(graph, {**fixed, **keep_at(middle)}) <= budget else (low, middle)
    return keep_at(low)


def greedy_keep(
    graph: ModelGraph,
    groups: Sequence[UnitGroup],
    fixed: Mapping[str, int],
    scores: Mapping[str, NDArray[np.float64]],
    *,
    target_macs: float,
    min_units: int,
    multiple: int,
) -> dict[str, int]:
    """Take away, step by step, the units with the least score per multiply-accumulate saved, until the budget holds; arguments as in `uniform_keep`.

    Raises:
        PlanError: if the budget cannot be reached, or scores are missing or not finite.
    """
    checked = checked_scores(scores, {group.name: (group.size,) for group in groups}, "group")
    ascending = {name: np.sort(values) for name, values in checked.items()}
    keep = {group.name: group.size for group in groups}
    smallest = {group.name: rounded_keep(0.0, group.size, min_units=min_units, multiple=multiple) for group in groups}
    _check_reachable(graph, {**fixed, **smallest}, target_macs)
    macs = macs_after(graph, {**fixed, **keep})
    while macs > target_macs * graph.macs:
        options = []
        for position, group in enumerate(groups):
            fewer = _next_keep(keep[group.name], group.size, smallest[group.name], multiple)
            if fewer < keep[group.name]:
                after = macs_after(graph, {**fixed, **keep, group.name: fewer})
                lost = float(ascending[group.name][group.size - keep[group.name] : group.size - fewer].sum())
                options.append((lost / max(macs - after, 1), position, fewer, after))
        _, position, fewer, macs = min(options)
        keep[groups[position].name] = fewer
    return keep


def _next_keep(keep: int, size: int, smallest: int, multiple: int) -> int:
    """The next smaller number of units that a group may have: a multiple, and not below the smallest."""
    step = max(1, size // STEPS_PER_GROUP)
    return max(smallest, (keep - step) // multiple * multiple)


def _check_reachable(graph: ModelGraph, smallest: Mapping[str, int], target_macs: float) -> None:
    """Refuse a budget below what the smallest groups need.

    Raises:
        PlanError: naming what can be reached.
    """
    least = macs_after(graph, smallest) / graph.macs
    if least > target_macs:
        frozen = [group.name for group in graph.groups if group.frozen]
        held = f" (frozen groups: {', '.join(frozen)})" if frozen else ""
        raise PlanError(
            f"`target_macs` {target_macs} cannot be reached: with the fewest units that `min_units`, `channel_multiple` and `unit_overrides` allow, "
            f"{least:.4f} of the multiply-accumulates stay{held}. Raise it, or allow fewer units."
        )
