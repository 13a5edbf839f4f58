"""Coupled unit groups of a pristine model: found by torch-pruning on a copy, then proved by running masked against shrunk."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from tsn_toolkit.contracts import GroupMember, ModelGraph, UnitGroup
from tsn_toolkit.graph.coupling import OPAQUE, PRODUCERS, CoupledUnits, Unresolved, build_dependencies, output_units
from tsn_toolkit.graph.probe import probe_input, probe_model
from tsn_toolkit.graph.proof import prove_groups


def find_groups(model: nn.Module, graph: ModelGraph, layer_order: Sequence[str], sources: Mapping[str, str]) -> tuple[UnitGroup, ...]:
    """All unit groups of `model` in execution order of their first producer; groups that cannot lose units are frozen with a reason.

    Args:
        model: the pristine model; it is not changed.
        graph: of the model, with `groups` still empty.
        layer_order: names of the modules that produce units, in execution order.
        sources: module path -> `file:line`, for the reasons.
    """
    probe = _probe(model, graph)
    layers = {name: probe.get_submodule(name) for name in layer_order}
    layers = {name: layer for name, layer in layers.items() if isinstance(layer, (*PRODUCERS, *OPAQUE))}
    try:
        dependencies = build_dependencies(copy.deepcopy(probe), probe_input(probe, graph))
    except Exception as error:  # any failure inside torch-pruning means that nothing is known about the couplings
        reason = f"torch-pruning could not read the model ({type(error).__name__}: {error})"
        return tuple(_frozen(name, layer, reason, sources) for name, layer in layers.items() if name != graph.head)
    groups = _collect(dependencies.model, layers, graph.head, dependencies, sources)
    failures = prove_groups(probe, replace(graph, groups=groups))
    return tuple(
        replace(group, frozen=_reason(failures[group.name], sources.get(group.name, ""))) if group.name in failures else group for group in groups
    )


def _probe(model: nn.Module, graph: ModelGraph) -> nn.Module:
    """A random float64 copy, or one in the model's own type where its code insists on that."""
    probe = probe_model(model)
    try:
        with torch.no_grad():
            probe(probe_input(probe, graph))
    except RuntimeError:  # torch reports a mixture of types so
        return probe_model(model, double=False)
    return probe


def _collect(
    model: nn.Module, layers: Mapping[str, nn.Module], head: str, dependencies: Any, sources: Mapping[str, str]
) -> tuple[UnitGroup, ...]:
    """One group per set of output indices that no earlier layer's group has claimed."""
    names = {id(module): name for name, module in model.named_modules()}
    names.update({id(parameter): name for name, parameter in model.named_parameters()})
    claimed: dict[str, set[int]] = {name: set() for name in layers}
    groups: list[UnitGroup] = []
    for name in layers:
        module = model.get_submodule(name)
        free = [index for index in range(output_units(module)) if index not in claimed[name]]
        if not free or name == head:
            continue
        try:
            if isinstance(module, OPAQUE):
                raise Unresolved(f"units of {type(module).__name__} cannot be removed safely")
            if module not in dependencies.module2node:
                raise Unresolved("torch-pruning does not see this layer in the model's gradient graph")
            units = CoupledUnits(dependencies, names, module, free)
        except Unresolved as error:
            groups.append(_frozen(name, module, str(error), sources))
            continue
        except Exception as error:  # torch-pruning fails on some models with any exception; such a group is left alone
            groups.append(_frozen(name, module, f"torch-pruning failed here ({type(error).__name__}: {error})", sources))
            continue
        for producer, indices in units.producers.items():
            claimed.setdefault(producer, set()).update(indices)
        groups.append(_group(name, units, list(layers), head, sources))
    return tuple(groups)


def _group(name: str, units: CoupledUnits, order: list[str], head: str, sources: Mapping[str, str]) -> UnitGroup:
    """The group that starts at layer `name`."""
    producers = tuple(layer for layer in order if layer in units.producers)
    reason = ""
    if head in producers:
        reason = _reason("its units are added to the model's output", sources.get(name, ""))
    elif units.size < 2:
        reason = _reason("it is a single unit", sources.get(name, ""))
    return UnitGroup(name, units.size, units.members, producers, reason)


def _frozen(name: str, layer: nn.Module, reason: str, sources: Mapping[str, str]) -> UnitGroup:
    """A group that holds one layer's own outputs only and may not lose any."""
    size = output_units(layer)
    transposed = getattr(layer, "transposed", False) or isinstance(layer, nn.Embedding)
    members = []
    weight = getattr(layer, "weight", None)
    if isinstance(weight, torch.Tensor) and weight.shape[int(transposed)] == size:
        members.append(GroupMember(f"{name}.weight", int(transposed), np.arange(size, dtype=np.int64)))
    return UnitGroup(name, size, tuple(members), (name,), _reason(reason, sources.get(name, "")))


def _reason(text: str, source: str) -> str:
    """The reason with its place in the user's code."""
    text = " ".join(text.split())
    text = text if len(text) <= 300 else text[:297] + "..."
    return f"{text} [{source}]" if source else text
