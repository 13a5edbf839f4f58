"""From entries of tensors to units: the sums that criteria share."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tsn_toolkit.contracts import GroupMember, ModelGraph, UnitGroup


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
        if leaf == "weight" and path in group.producers and member.dim == output_dim(model.get_submodule(path)):
            yield member, model.get_parameter(member.parameter)


def output_dim(layer: nn.Module) -> int:
    """The dimension of a producer's weight that counts its outputs."""
    return 1 if isinstance(layer, nn.Embedding) or getattr(layer, "transposed", False) else 0
