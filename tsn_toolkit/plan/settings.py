"""What a user asks of a plan, and the rules for every value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from math import isfinite
from typing import Any, get_args

from tsn_toolkit.contracts import LayerPlan
from tsn_toolkit.masks.granularity import parse_granularity
from tsn_toolkit.plan.density import own_density
from tsn_toolkit.recipe.schema import PlanSection
from tsn_toolkit.registry import did_you_mean
from tsn_toolkit.vocabulary import MAX_CODE, DensityRule, Encoding

MAX_BITS = 8
LAYER_KEYS = ("encoding", "density", "granularity", "bit_width")
SINGLE_KEYS = ("units_keep", "min_units", "channel_multiple", *LAYER_KEYS, "density_by_layer", "trunk_bit_width", "max_code")
LEAST_INPUTS = 64
"""Inputs of a unit from which on a plane pays for its gains and scales."""


@dataclass(frozen=True)
class PlanSettings:
    """Settings of `make_plan`, with all defaults.

    Attributes:
        units_keep: fraction of the units of every group that stay, (0, 1].
        unit_overrides: glob over group names -> fraction for these groups; of several that match the last one counts.
        target_macs: fraction of the dense multiply-accumulates that may stay, (0, 1]; sets the number of units of all groups without an override.
        min_units: units that stay in every group at least.
        channel_multiple: numbers of units are rounded up to a multiple of it.
        encoding: of every layer, `codes`, `planes` or `shared`; `planes` becomes `codes` where a unit has too few inputs for it.
        density: fraction of the slots inside the kept units, (0, 1]; `unit` and `n:m` masks and `planes` have a density of their own.
        density_by_layer: `uniform`: every layer has this density; `erk` and `learned`: all `codes` layers together have it, divided by their shapes
            (`learned`: to start with, then by each task's scores).
        granularity: of the masks inside the kept units.
        bit_width: bits per own code, 1..8.
        layer_overrides: glob over layer names -> {encoding, density, granularity, bit_width} for these layers; of several that match the last counts.
        child_overrides: the same for tasks that have a parent, over what `layer_overrides` gives; see `CompressionPlan.child_layers`.
        trunk_bit_width: bits per trunk code, 1..8.
        max_code: largest |q|, 1..127.
    """

    units_keep: float = 1.0
    unit_overrides: Mapping[str, float] = field(default_factory=dict)
    target_macs: float | None = None
    min_units: int = 1
    channel_multiple: int = 1
    encoding: Encoding = "codes"
    density: float = 0.1
    density_by_layer: DensityRule = "uniform"
    granularity: str = "element"
    bit_width: int = 4
    layer_overrides: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    child_overrides: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    trunk_bit_width: int = 8
    max_code: int = MAX_CODE


def problem(key: str, value: Any, *, where: str = "") -> str:
    """Why `value` breaks the rule of `key`, or "" if it does not; `where` says whose key it is."""
    rules: dict[str, tuple[str, bool]] = {
        "units_keep": ("a fraction in (0, 1]", _is_fraction(value)),
        "target_macs": ("a fraction in (0, 1]", _is_fraction(value)),
        "density": ("a fraction in (0, 1]", _is_fraction(value)),
        "min_units": ("a whole number of at least 1", _is_int(value) and value >= 1),
        "channel_multiple": ("a whole number of at least 1", _is_int(value) and value >= 1),
        "bit_width": (f"a whole number in 1..{MAX_BITS}", _is_int(value) and 1 <= value <= MAX_BITS),
        "trunk_bit_width": (f"a whole number in 1..{MAX_BITS}", _is_int(value) and 1 <= value <= MAX_BITS),
        "max_code": (f"a whole number in 1..{MAX_CODE}", _is_int(value) and 1 <= value <= MAX_CODE),
        "encoding": (f"one of {', '.join(get_args(Encoding))}", value in get_args(Encoding)),
        "density_by_layer": (f"one of {', '.join(get_args(DensityRule))}", value in get_args(DensityRule)),
        "granularity": ("element, unit, block(k) or n:m with n at most m", _is_granularity(value)),
    }
    rule, holds = rules[key]
    return "" if holds else f"`{key}`{f' of {where}' if where else ''} must be {rule}, got {value!r}"


def settings_problems(settings: PlanSettings) -> list[str]:
    """Every value of the settings that breaks its rule, one sentence each."""
    found = [problem(key, getattr(settings, key)) for key in SINGLE_KEYS]
    if settings.target_macs is not None:
        found.append(problem("target_macs", settings.target_macs))
        if settings.units_keep != 1.0:
            found.append(f"`units_keep` ({settings.units_keep}) and `target_macs` ({settings.target_macs}) exclude each other: set only one")
    found += [problem("units_keep", value, where=f"`unit_overrides.{glob}`") for glob, value in settings.unit_overrides.items()]
    for section in ("layer_overrides", "child_overrides"):
        for glob, values in getattr(settings, section).items():
            where = f"`{section}.{glob}`"
            for key, value in values.items():
                unknown = f"`{key}` of {where} is unknown{did_you_mean(key, LAYER_KEYS)}; known: {', '.join(LAYER_KEYS)}"
                found.append(problem(key, value, where=where) if key in LAYER_KEYS else unknown)
    if settings.child_overrides and settings.density_by_layer == "learned":
        found.append("`child_overrides` gives own slots by layer, `density_by_layer: learned` divides one density: keep one of the two")
    return [sentence for sentence in found if sentence]


def overridden(section: PlanSection, name: str) -> dict[str, Any]:
    """What the layer overrides of a recipe say of one layer; of several that match the last counts."""
    found: dict[str, Any] = {}
    for glob, override in section.layer_overrides.items():
        if fnmatchcase(name, glob):
            found |= override.model_dump(exclude_none=True)
    return found


def layer_plan(section: PlanSection, name: str, encoding: Encoding) -> LayerPlan:
    """A layer that no option was chosen for, as the recipe's section and its overrides say; an encoding or granularity may fix the density.

    Args:
        section: of the recipe.
        name: of the layer.
        encoding: how it is stored where no override says otherwise.
    """
    said = {key: getattr(section, key) for key in ("density", "granularity", "bit_width")} | overridden(section, name)
    encoding = said.pop("encoding", encoding)
    if encoding == "planes":
        said["granularity"] = "unit"
    fixed = own_density(encoding, said["granularity"])
    return LayerPlan(name, encoding, **(said if fixed is None else {**said, "density": fixed}))


def _is_granularity(value: Any) -> bool:
    """A mask granularity."""
    try:
        parse_granularity(value)
    except (TypeError, ValueError):
        return False
    return True


def _is_int(value: Any) -> bool:
    """A whole number and not a truth value."""
    return isinstance(value, int) and not isinstance(value, bool)


def _is_fraction(value: Any) -> bool:
    """A number in (0, 1]."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and isfinite(value) and 0 < value <= 1
