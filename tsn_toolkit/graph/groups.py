"""Unit groups of a pristine model: read off the exported graph (or the gradient graph), then proved by running masked against shrunk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from torch import nn

from tsn_toolkit.contracts import GroupMember, ModelGraph, SizeMember, UnitGroup
from tsn_toolkit.graph.coupled_by_gradients import groups_by_gradients
from tsn_toolkit.graph.couplings import Reason
from tsn_toolkit.graph.flow import Units
from tsn_toolkit.graph.layers import RECURRENT, output_dims
from tsn_toolkit.graph.operations import source_of_text
from tsn_toolkit.graph.proof import prove_groups
from tsn_toolkit.graph.sizes import find_sizes
from tsn_toolkit.graph.unit_map import Atoms


def find_groups(
    model: nn.Module, graph: ModelGraph, units: Units | None, layer_order: Sequence[str], sources: Mapping[str, str]
) -> tuple[UnitGroup, ...]:
    """All unit groups of `model` in execution order of their first producer; groups that cannot lose units are frozen with a reason.

    Args:
        model: the pristine model; it is not changed.
        graph: of the model, with `groups` still empty.
        units: what couples with what; None when torch.export could not read the model.
        layer_order: names of the modules that produce units, in execution order.
        sources: module path -> `file:line`, for the reasons.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    layers = {name: modules[name] for name in layer_order if output_dims(modules[name])}
    if units is None:
        groups = groups_by_gradients(model, graph, layers)
        groups = tuple(replace(group, frozen=_reason(group.frozen, sources.get(group.name, ""))) if group.frozen else group for group in groups)
    else:
        groups = collect_groups(model, units, layers, graph.head, sources)
    failures = prove_groups(model, replace(graph, groups=groups))
    return tuple(
        replace(group, frozen=_reason(failures[group.name], sources.get(group.name, ""))) if group.name in failures else group for group in groups
    )


def collect_groups(model: nn.Module, units: Units, layers: Mapping[str, nn.Module], head: str, sources: Mapping[str, str]) -> tuple[UnitGroup, ...]:
    """One group per set of a layer's output units that no earlier layer has; not proved yet."""
    group_of = np.full(len(units.unit) + 1, -1, dtype=np.int64)  # of every unit; the last entry serves entries that stay
    index_of = np.full(len(units.unit) + 1, -1, dtype=np.int64)
    rows = {name: _rows(name, layer, units) for name, layer in layers.items()}
    names: list[str] = []
    producers: list[list[str]] = []
    for name in layers:
        free = rows[name][group_of[rows[name]] < 0]
        if not len(free) or name == head:
            continue
        members, first = np.unique(free, return_index=True)
        group_of[members] = len(names)
        index_of[members[np.argsort(first)]] = np.arange(len(members))
        names.append(name)
        producers.append([])
    for name in layers:
        for group in np.unique(group_of[rows[name]]).tolist():
            if group >= 0:
                producers[group].append(name)
    by_group = _members(units, group_of, index_of, len(names))
    frozen = _frozen_groups(units, group_of)
    open_groups = np.where(np.isin(group_of, list(frozen)), -1, group_of)
    sizes = find_sizes(model, units.counts, units.unit, open_groups, index_of)
    groups = []
    for number, name in enumerate(names):
        size = int((group_of[:-1] == number).sum())
        reason = _why(name, size, producers[number], head, layers, units, frozen.get(number), sources)
        counted: tuple[SizeMember, ...] = () if reason else sizes.get(number, ())
        groups.append(UnitGroup(name, size, tuple(by_group[number]), tuple(producers[number]), reason, counted))
    return tuple(groups)


def _rows(name: str, layer: nn.Module, units: Units) -> Atoms:
    """Units of a layer's outputs, in order."""
    places = [(f"{name}.{tensor}" if name else tensor, dim) for tensor, dim in output_dims(layer)]
    found = [units.unit[units.atoms[place]] for place in places if place in units.atoms]
    return np.concatenate(found) if found else np.zeros(0, dtype=np.int64)


def _members(units: Units, group_of: Atoms, index_of: Atoms, count: int) -> list[list[GroupMember]]:
    """For every group, the dimensions of parameters and buffers that shrink with it."""
    found: list[list[GroupMember]] = [[] for _ in range(count)]
    for (name, dim), atoms in sorted(units.atoms.items(), key=lambda item: item[0]):
        unit = units.unit[atoms]
        groups = group_of[unit]
        first = int(groups[0])
        if (groups == first).all():
            if first >= 0:
                found[first].append(GroupMember(name, dim, index_of[unit]))
            continue
        for group in np.unique(groups[groups >= 0]).tolist():
            found[group].append(GroupMember(name, dim, np.where(groups == group, index_of[unit], -1)))
    return found


def _frozen_groups(units: Units, group_of: Atoms) -> dict[int, Reason]:
    """Group -> why it stays: the first reason of any of its units, in execution order."""
    stays = np.flatnonzero((units.why >= 0) & (group_of[:-1] >= 0))
    order = stays[np.argsort(units.why[stays], kind="stable")]
    groups, first = np.unique(group_of[order], return_index=True)
    return {group: units.reasons[units.why[order[position]]] for group, position in zip(groups.tolist(), first.tolist())}


def _why(
    name: str,
    size: int,
    producers: Sequence[str],
    head: str,
    layers: Mapping[str, nn.Module],
    units: Units,
    reason: Reason | None,
    sources: Mapping[str, str],
) -> str:
    """Why a group stays, or ""."""
    own = sources.get(name, "")
    unread = [producer for producer in producers if not any(f"{producer}.{tensor}" in units.read for tensor, _ in output_dims(layers[producer]))]
    if head in producers:
        return _reason(f"its units are added to the model's output, where the head `{head}` writes", own)
    if isinstance(layers[name], RECURRENT):
        return _reason(f"units of {type(layers[name]).__name__} cannot be removed safely", own)
    if reason is not None:
        return _reason(reason.text, source_of_text(reason.node.meta.get("stack_trace", "")) or own)
    if unread:
        return _reason(f"the model's output does not depend on `{unread[0]}`", own)
    if size < 2:
        return _reason("it is a single unit", own)
    return ""


def _reason(text: str, source: str) -> str:
    """The reason with its place in the user's code."""
    text = " ".join(text.split())
    text = text if len(text) <= 300 else text[:297] + "..."
    return f"{text} [{source}]" if source else text
