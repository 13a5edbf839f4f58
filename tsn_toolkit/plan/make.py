"""Make a compression plan from a graph and settings; pure, nothing is executed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase

import numpy as np
from numpy.typing import NDArray

from tsn_toolkit.contracts import CompressionPlan, GroupPlan, LayerPlan, ModelGraph
from tsn_toolkit.errors import PlanError
from tsn_toolkit.plan.budget import greedy_keep, rounded_keep, uniform_keep
from tsn_toolkit.plan.settings import MAX_BITS, PlanSettings, settings_problems
from tsn_toolkit.registry import nearest


def make_plan(graph: ModelGraph, settings: PlanSettings, *, unit_scores: Mapping[str, NDArray[np.float64]] | None = None) -> CompressionPlan:
    """What compression does to every layer and group.

    Args:
        graph: of the pristine model.
        settings: see `PlanSettings`.
        unit_scores: group name -> score per unit; with `target_macs` they decide where units go, without them all groups shrink alike.

    Raises:
        PlanError: with every value that breaks its rule and every glob that matches nothing; if the budget cannot be reached; or if the plan would
            change nothing, with the reason by layer.
    """
    problems = settings_problems(settings) + _glob_problems(graph, settings)
    if problems:
        raise PlanError("The plan's settings have problems:\n" + "\n".join(f"  {problem}." for problem in problems) + "\nCorrect the settings.")
    keep = _units(graph, settings, unit_scores)
    plan = CompressionPlan(
        fingerprint=graph.fingerprint,
        max_code=settings.max_code,
        trunk_bit_width=settings.trunk_bit_width,
        layers=_layers(graph, settings),
        groups=tuple(GroupPlan(g.name, keep[g.name], g.size) for g in graph.groups if keep.get(g.name, g.size) < g.size),
    )
    check_changes_something(graph, plan)
    return plan


def check_changes_something(graph: ModelGraph, plan: CompressionPlan) -> None:
    """Refuse a plan after which everything is as before.

    Raises:
        PlanError: with the reason by layer.
    """
    if plan.groups or any(layer.encoding != "codes" or layer.density < 1 or layer.bit_width < MAX_BITS for layer in plan.layers):
        return
    frozen = {producer: group.frozen for group in graph.groups for producer in group.producers if group.frozen}
    reasons = [
        f"  {layer.name}: density {layer.density:g}, {layer.bit_width} bits, "
        + (f"its units are frozen: {frozen[layer.name]}" if layer.name in frozen else "all units stay")
        for layer in plan.layers
    ]
    raise PlanError(
        "The plan would change nothing. Lower `density`, `bit_width` (8 is the full code) or `units_keep`:\n" + "\n".join(reasons or ["  no layers"])
    )


def _units(graph: ModelGraph, settings: PlanSettings, scores: Mapping[str, NDArray[np.float64]] | None) -> dict[str, int]:
    """Number of units that stay in every group that is not frozen."""
    sizes = {"min_units": settings.min_units, "multiple": settings.channel_multiple}
    free, fixed = [], {}
    for group in graph.groups:
        if group.frozen:
            continue
        fractions = [value for glob, value in settings.unit_overrides.items() if fnmatchcase(group.name, glob)]
        if fractions:
            fixed[group.name] = rounded_keep(fractions[-1], group.size, **sizes)
        else:
            free.append(group)
    if settings.target_macs is None:
        return fixed | {group.name: rounded_keep(settings.units_keep, group.size, **sizes) for group in free}
    if scores is None:
        return fixed | uniform_keep(graph, free, fixed, target_macs=settings.target_macs, **sizes)
    return fixed | greedy_keep(graph, free, fixed, scores, target_macs=settings.target_macs, **sizes)


def _layers(graph: ModelGraph, settings: PlanSettings) -> tuple[LayerPlan, ...]:
    """How every layer but the head is stored."""
    layers = []
    for record in graph.layers:
        if record.name == graph.head:
            continue
        layer = LayerPlan(record.name, settings.encoding, float(settings.density), settings.granularity, settings.bit_width)
        for glob, values in settings.layer_overrides.items():
            if fnmatchcase(record.name, glob):
                layer = replace(layer, **values)
        layers.append(replace(layer, density=float(layer.density)))
    return tuple(layers)


def _glob_problems(graph: ModelGraph, settings: PlanSettings) -> list[str]:
    """Globs that match nothing that they could act on."""
    frozen = {group.name: group.frozen for group in graph.groups if group.frozen}
    groups = [group.name for group in graph.groups if not group.frozen]
    layers = [layer.name for layer in graph.layers if layer.name != graph.head]
    found = []
    for glob in settings.unit_overrides:
        stuck = [name for name in frozen if fnmatchcase(name, glob)]
        if stuck and not any(fnmatchcase(name, glob) for name in groups):
            found.append(f"`unit_overrides.{glob}` matches only frozen groups: {'; '.join(f'{name}: {frozen[name]}' for name in stuck)}")
        elif not stuck:
            found += _no_match("unit_overrides", glob, groups, "group")
    for glob in settings.layer_overrides:
        if fnmatchcase(graph.head, glob) and not any(fnmatchcase(name, glob) for name in layers):
            found.append(f"`layer_overrides.{glob}` matches only the head `{graph.head}`, which every task stores in full")
        else:
            found += _no_match("layer_overrides", glob, layers, "layer")
    return found


def _no_match(key: str, glob: str, names: Iterable[str], what: str) -> list[str]:
    """The problem of a glob that matches none of `names`, with the nearest one."""
    names = list(names)
    if any(fnmatchcase(name, glob) for name in names):
        return []
    near = nearest(glob, names)
    return [f"`{key}.{glob}` matches no {what}{f' (nearest: `{near}`)' if near else ''}; known: {', '.join(names) or 'none'}"]
