"""From entries of tensors to units: the sums that criteria share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.modules.conv import _ConvNd

from tsn_toolkit.contracts import GroupMember, ModelGraph, UnitGroup
from tsn_toolkit.errors import GraphError
from tsn_toolkit.graph.layers import is_transposed_linear, output_dims


def prunable_groups(graph: ModelGraph) -> tuple[UnitGroup, ...]:
    """Groups that may lose units."""
    return tuple(group for group in graph.groups if not group.frozen)


def add_per_unit(total: NDArray[np.float64], member: GroupMember, values: torch.Tensor) -> None:
    """Add `values` (one per index of the member's dimension) to the units they belong to, in place."""
    ours = member.unit >= 0
    np.add.at(total, member.unit[ours], values.detach().double().cpu().numpy()[ours])


def sum_along(values: torch.Tensor, dim: int) -> torch.Tensor:
    """float64 sums over all dimensions but `dim`."""
    return values.detach().double().movedim(dim, 0).flatten(1).sum(1) if values.ndim > 1 else values.detach().double()


def producer_weights(model: nn.Module, group: UnitGroup) -> Iterator[tuple[GroupMember, torch.Tensor]]:
    """(member, weight) of the output side of every producer of a group."""
    for member in group.members:
        path, _, leaf = member.parameter.rpartition(".")
        if path in group.producers and (leaf, member.dim) in output_dims(model.get_submodule(path)):
            yield member, model.get_parameter(member.parameter)


def weights_of_producers(model: nn.Module, graph: ModelGraph) -> dict[str, torch.Tensor]:
    """Parameter name -> weight of every producer of a group that may lose units."""
    return {member.parameter: weight for group in prunable_groups(graph) for member, weight in producer_weights(model, group)}


def unit_sums(graph: ModelGraph, entries: Callable[[UnitGroup], Iterable[tuple[GroupMember, torch.Tensor]]]) -> dict[str, NDArray[np.float64]]:
    """Per-weight values summed into the units they belong to: group name -> float64 (units,), for groups that may lose units.

    Args:
        graph: of the model.
        entries: for a group, (member, values with the shape of its parameter); the member says which dimension holds units.
    """
    sums = {}
    for group in prunable_groups(graph):
        sums[group.name] = np.zeros(group.size)
        for member, values in entries(group):
            add_per_unit(sums[group.name], member, sum_along(values, member.dim))
    return sums


def producer_sums(model: nn.Module, graph: ModelGraph, values: Mapping[str, torch.Tensor]) -> dict[str, NDArray[np.float64]]:
    """`unit_sums` over the weights that make a unit.

    Args:
        model: whose producers they are.
        graph: of the model.
        values: parameter name -> one value per weight, shape of the parameter; all of `weights_of_producers`.
    """
    return unit_sums(graph, lambda group: ((member, values[member.parameter]) for member, _ in producer_weights(model, group)))


def readers(model: nn.Module, group: UnitGroup) -> tuple[tuple[GroupMember, str], ...]:
    """(member, layer name) of the input side of every convolution and linear layer that reads a group's units.

    A depthwise convolution is no reader: its channels are units of the group themselves.

    Raises:
        GraphError: if nothing of that kind reads the group.
    """
    found = []
    for member in group.members:
        path, _, leaf = member.parameter.rpartition(".")
        layer = model.get_submodule(path)
        reads = isinstance(layer, (_ConvNd, nn.Linear)) or is_transposed_linear(layer)
        if leaf == "weight" and reads and ("weight", 1 - member.dim) in output_dims(layer):
            found.append((member, path))
    if not found:
        raise GraphError(f"No convolution or linear layer reads the units of group `{group.name}`, so their use cannot be judged. Use `magnitude`.")
    return tuple(found)
