"""What a budget may choose from: options of every layer, numbers of units of every group, and what measuring them finds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from tsn_toolkit.masks.granularity import parse_granularity
from tsn_toolkit.plan.budget import rounded_keep
from tsn_toolkit.plan.candidate import LayerOption, Measuring
from tsn_toolkit.plan.sensitivity import Sensitivity, measure_sensitivity
from tsn_toolkit.plan.settings import overridden
from tsn_toolkit.plan.subject import PlanSubject


def measure_options(subject: PlanSubject, examiner: Measuring, layers: Mapping[str, Sequence[LayerOption]]) -> Sensitivity:
    """What these options of layers, and all numbers of units, change and cost; a latency is measured only where it is limited.

    Raises:
        PlanError: more passes are needed than the budget allows.
    """
    budget = subject.budget
    return measure_sensitivity(
        examiner,
        layers,
        unit_options(subject),
        max_passes=budget.max_passes,
        head_bits=subject.section.head_bits,
        free_parameters=not subject.inherits_free_parameters,
        classes=subject.classes,
        latency_ms=subject.latency_ms if budget.latency_ms is not None else None,
    )


def layer_options(subject: PlanSubject) -> dict[str, tuple[LayerOption, ...]]:
    """Layer name -> options of every layer of encoding `codes`, the head left out; an override of a layer fixes what it names."""
    section, budget, graph = subject.section, subject.budget, subject.graph
    found = {}
    for layer in graph.layers:
        override = overridden(section, layer.name)
        if layer.name == graph.head or override.get("encoding", section.encoding) != "codes":
            continue
        widths = _given(override, "bit_width", budget.bit_widths)
        options = []
        for granularity in _given(override, "granularity", budget.granularities):
            fixed = parse_granularity(granularity).density
            for density in _given(override, "density", budget.densities) if fixed is None else (fixed,):
                options += [LayerOption(density, granularity, width) for width in widths]
        found[layer.name] = tuple(dict.fromkeys(options))
    return found


def unit_options(subject: PlanSubject) -> dict[str, tuple[int, ...]]:
    """Group name -> numbers of units of every group that is not frozen, largest first; an override of a group fixes its number."""
    section, found = subject.section, {}
    for group in subject.graph.groups:
        if group.frozen:
            continue
        own = [fraction for glob, fraction in section.unit_overrides.items() if fnmatchcase(group.name, glob)]
        fractions = own[-1:] or (1.0, *subject.budget.units)
        keeps = {rounded_keep(f, group.size, min_units=section.min_units, multiple=subject.channel_multiple) for f in fractions}
        found[group.name] = tuple(sorted(keeps, reverse=True))
    return found


def _given(override: Mapping[str, Any], key: str, otherwise: Sequence[Any]) -> Sequence[Any]:
    return (override[key],) if key in override else otherwise
