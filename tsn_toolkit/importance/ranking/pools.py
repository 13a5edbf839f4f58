"""Which groups, or layers, are ranked against each other: all, each by itself, or those that are built alike.

Isomorphic pools follow Fang et al., "Isomorphic Pruning for Vision Models", ECCV 2024: scores of unlike structures do not compare, those of like ones
do. Two groups are alike here when the same dimensions of tensors of the same shape shrink with them, at the same place of repeated blocks: the names
are equal once every component that is a number is left open (`layer2.1.conv1` and `layer2.2.conv1`).

Deviation: the paper compares the graphs of the coupled operations; names stand for them here, so blocks that are built alike and named differently
are told apart.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from tsn_toolkit.contracts import ModelGraph, UnitGroup
from tsn_toolkit.errors import PlanError
from tsn_toolkit.registry import did_you_mean

UNIT_SCOPES = ("global", "layer", "isomorphic")
WEIGHT_SCOPES = (*UNIT_SCOPES, "row")
"""`row`: weights of one output compete, that is of one index of the weight's first dimension."""


def unit_pools(graph: ModelGraph, scope: str) -> tuple[tuple[str, ...], ...]:
    """Names of the groups that may lose units, in pools, everything in execution order.

    Args:
        graph: of the model.
        scope: `global`, `layer` (every group by itself) or `isomorphic`.

    Raises:
        PlanError: if the scope is unknown.
    """
    _check(scope, UNIT_SCOPES)
    shapes = {layer.name: layer.shape for layer in graph.layers}
    groups = [group for group in graph.groups if not group.frozen]
    if scope == "global":
        return _pools([(group.name, "") for group in groups])
    if scope == "isomorphic":
        return _pools([(group.name, _structure(group, shapes)) for group in groups])
    return _pools([(group.name, group.name) for group in groups])


def layer_pools(graph: ModelGraph, scope: str) -> tuple[tuple[str, ...], ...]:
    """Names of the codable layers, the head included, in pools; arguments and errors as in `unit_pools`, and `row` pools like `layer`."""
    _check(scope, WEIGHT_SCOPES)
    if scope == "global":
        return _pools([(layer.name, "") for layer in graph.layers])
    if scope == "isomorphic":
        return _pools([(layer.name, (_open(layer.name), layer.kind, layer.shape)) for layer in graph.layers])
    return _pools([(layer.name, layer.name) for layer in graph.layers])


def _structure(group: UnitGroup, shapes: dict[str, tuple[int, ...]]) -> Hashable:
    """Equal for groups that are built alike."""
    members = sorted((_open(m.parameter), m.dim, len(m.unit), shapes.get(m.parameter.rpartition(".")[0], ())) for m in group.members)
    return (group.size, tuple(_open(name) for name in group.producers), tuple(members))


def _open(name: str) -> str:
    """A name whose numeric components are left open.

    >>> _open("layer2.1.conv1")
    'layer2.*.conv1'
    """
    return ".".join("*" if part.isdigit() else part for part in name.split("."))


def _pools(kinds: Sequence[tuple[str, Hashable]]) -> tuple[tuple[str, ...], ...]:
    """Names of one kind together, in order of first appearance."""
    pools: dict[Hashable, list[str]] = {}
    for name, kind in kinds:
        pools.setdefault(kind, []).append(name)
    return tuple(tuple(names) for names in pools.values())


def _check(scope: str, known: Sequence[str]) -> None:
    """Refuse an unknown scope.

    Raises:
        PlanError: naming the known ones.
    """
    if scope not in known:
        raise PlanError(f"`scope` must be one of {', '.join(known)}, got {scope!r}{did_you_mean(scope, known)}. Use one of these.")
