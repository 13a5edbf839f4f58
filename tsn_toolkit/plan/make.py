"""Make a compression plan from a graph and settings; pure, nothing is executed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tsn_toolkit.contracts import CompressionPlan, GroupPlan, LayerPlan, ModelGraph
from tsn_toolkit.errors import PlanError
from tsn_toolkit.plan.budget import greedy_keep, rounded_keep, uniform_keep
from tsn_toolkit.plan.density import density_problem, divide_by_shape, own_density
from tsn_toolkit.plan.macs import kept_shapes
from tsn_toolkit.plan.settings import LAYER_KEYS, LEAST_INPUTS, MAX_BITS, PlanSettings, settings_problems
from tsn_toolkit.registry import nearest


def make_plan(graph: ModelGraph, settings: PlanSettings, *, unit_scores: Mapping[str, NDArray[np.float64]] | None = None) -> CompressionPlan:
    """What compression does to every layer and group.

    Args:
        graph: of the pristine model.
        settings: see `PlanSettings`.
        unit_scores: group name -> score per unit; with `target_macs` they decide where units go, without them all groups shrink alike.

    Raises:
        PlanError: with every value that breaks its rule and every glob that matches nothing; if a budget of multiply-accumulates or of slots cannot
            be reached; or if the plan would change nothing, with the reason by layer.
    """
    problems = settings_problems(settings) + _glob_problems(graph, settings)
    if problems:
        raise PlanError("The plan's settings have problems:\n" + "\n".join(f"  {problem}." for problem in problems) + "\nCorrect the settings.")
    keep = _units(graph, settings, unit_scores)
    shapes = kept_shapes(graph, keep)
    layers = _layers(graph, settings, shapes)
    plan = CompressionPlan(
        fingerprint=graph.fingerprint,
        max_code=settings.max_code,
        trunk_bit_width=settings.trunk_bit_width,
        layers=layers,
        groups=tuple(GroupPlan(g.name, keep[g.name], g.size) for g in graph.groups if keep.get(g.name, g.size) < g.size),
        density_by_layer=settings.density_by_layer,
        child_layers=_child_layers(layers, settings, shapes),
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


def switched_layers(plan: CompressionPlan, settings: PlanSettings) -> list[str]:
    """One sentence if layers are `codes` in the plan where the settings say `planes`, else nothing."""
    defaults = {"encoding": settings.encoding}
    names = [
        layer.name
        for layers, overrides in ((plan.layers, settings.layer_overrides), (plan.child_layers, settings.child_overrides))
        for layer in layers
        if layer.encoding == "codes" and _asked(layer.name, defaults, overrides)["encoding"] == "planes"
    ]
    if not names:
        return []
    return [f"{', '.join(names)}: codes instead of planes, whose gains do not pay below {LEAST_INPUTS} inputs per unit"]


def rounded_to_all(graph: ModelGraph, settings: PlanSettings) -> list[str]:
    """One sentence if groups that were to lose units keep all of them, for the channel multiple alone, else nothing."""
    if settings.target_macs is not None:
        return []
    names = []
    for group in graph.groups:
        fraction = [settings.units_keep, *(value for glob, value in settings.unit_overrides.items() if fnmatchcase(group.name, glob))][-1]
        finest, rounded = (rounded_keep(fraction, group.size, min_units=settings.min_units, multiple=k) for k in (1, settings.channel_multiple))
        if not group.frozen and finest < group.size == rounded:
            names.append(group.name)
    if not names:
        return []
    multiple = settings.channel_multiple
    return [f"{', '.join(names)}: all units stay, as their number is rounded up to a multiple of {multiple} (`plan.channel_multiple`)"]


def _layers(graph: ModelGraph, settings: PlanSettings, shapes: Mapping[str, tuple[int, ...]]) -> tuple[LayerPlan, ...]:
    """How every layer but the head is stored."""
    defaults = {key: getattr(settings, key) for key in LAYER_KEYS}
    found = [_layer(name, shape, defaults, settings.layer_overrides) for name, shape in shapes.items() if name != graph.head]
    _refuse([problem for _, _, problem in found])
    layers = tuple(layer for layer, _, _ in found)
    if settings.density_by_layer == "uniform":
        return layers
    return divide_by_shape(layers, shapes, settings.density, {layer.name for layer, given, _ in found if given})


def _child_layers(layers: Iterable[LayerPlan], settings: PlanSettings, shapes: Mapping[str, tuple[int, ...]]) -> tuple[LayerPlan, ...]:
    """What tasks with a parent do otherwise, in the layers that `child_overrides` names."""
    named = [layer for layer in layers if any(fnmatchcase(layer.name, glob) for glob in settings.child_overrides)]
    found = [_layer(layer.name, shapes[layer.name], {key: getattr(layer, key) for key in LAYER_KEYS}, settings.child_overrides) for layer in named]
    _refuse([problem for _, _, problem in found])
    return tuple(layer for layer, _, _ in found)


def _layer(name: str, shape: tuple[int, ...], defaults: Mapping[str, Any], overrides: Mapping[str, Mapping[str, Any]]) -> tuple[LayerPlan, bool, str]:
    """One layer under the overrides that match it; whether its density is given or fixed; what is wrong with it, "" if nothing is."""
    asked = _asked(name, defaults, overrides)
    if asked["encoding"] == "planes" and prod(shape[1:]) < LEAST_INPUTS:
        asked["encoding"] = "codes"
    if asked["encoding"] == "planes":
        asked["granularity"] = "unit"
    fixed = own_density(asked["encoding"], asked["granularity"])
    own = [values["density"] for glob, values in overrides.items() if fnmatchcase(name, glob) and "density" in values]
    wrong = density_problem(asked["encoding"], asked["granularity"], own[-1], f"layer `{name}`") if fixed is not None and own else ""
    layer = LayerPlan(name=name, **{**asked, "density": float(asked["density"] if fixed is None else fixed)})
    return layer, fixed is not None or bool(own), wrong


def _refuse(problems: list[str]) -> None:
    if any(problems):
        raise PlanError("The plan's settings have problems:\n" + "\n".join(f"  {text}." for text in problems if text) + "\nCorrect the settings.")


def _asked(name: str, defaults: Mapping[str, Any], overrides: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What the settings say of one layer."""
    asked = dict(defaults)
    for glob, values in overrides.items():
        if fnmatchcase(name, glob):
            asked |= values
    return asked


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
    for section in ("layer_overrides", "child_overrides"):
        for glob in getattr(settings, section):
            if fnmatchcase(graph.head, glob) and not any(fnmatchcase(name, glob) for name in layers):
                found.append(f"`{section}.{glob}` matches only the head `{graph.head}`, which every task stores in full")
            else:
                found += _no_match(section, glob, layers, "layer")
    return found


def _no_match(key: str, glob: str, names: Iterable[str], what: str) -> list[str]:
    """The problem of a glob that matches none of `names`, with the nearest one."""
    names = list(names)
    if any(fnmatchcase(name, glob) for name in names):
        return []
    near = nearest(glob, names)
    return [f"`{key}.{glob}` matches no {what}{f' (nearest: `{near}`)' if near else ''}; known: {', '.join(names) or 'none'}"]
