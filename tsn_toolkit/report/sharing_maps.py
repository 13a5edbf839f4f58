"""What tasks share, as heat maps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tsn_toolkit.report.heat_map import HeatMap, heat_map


@dataclass(frozen=True)
class SharingMap:
    """A heat map with its title, a sentence that says what its numbers are, and what its rows are."""

    title: str
    lead: str
    corner: str
    cells: HeatMap


def sharing_maps(sharing: Mapping[str, Any]) -> tuple[SharingMap, ...]:
    """The maps of `sharing` of `tsn inspect --json`; none where there is no task."""
    tasks = list(sharing.get("tasks") or [])
    if not tasks:
        return ()
    layers, units = sharing.get("layers") or {}, sharing.get("units") or {}
    maps = [
        SharingMap(
            "By owner",
            "Row: a task. Column: the owner of the bits that it reads, as a fraction of the weights it uses.",
            "task",
            heat_map(tasks, list(sharing["owners"]), sharing["by_owner"], low=0.0),
        ),
        SharingMap(
            "With other tasks",
            "Row: a task. Column: a task that reads the same bits, as a fraction of the weights that the row's task uses.",
            "task",
            heat_map(tasks, tasks, sharing["with_task"], low=0.0),
        ),
    ]
    for title, key, lead in (
        ("Weights used, by layer", "used", "Fraction of the layer's weights that the task uses."),
        ("Weights of one task alone, by layer", "exclusive", "Fraction of the layer's weights whose bits the task reads and no other task does."),
    ):
        if layers:
            maps.append(SharingMap(title, lead, "layer", heat_map(list(layers), tasks, [layer[key] for layer in layers.values()], low=0.0)))
    for title, key, lead in (
        ("Units kept, by group", "kept", "Fraction of the group's units that the task keeps; groups of which all tasks keep all are left out."),
        ("Units of one task alone, by group", "exclusive", "Fraction of the group's units that the task keeps and no other task does."),
    ):
        if units:
            fractions = [[count / group["size"] for count in group[key]] for group in units.values()]
            maps.append(SharingMap(title, lead, "group", heat_map(list(units), tasks, fractions, low=0.0)))
    return tuple(maps)
