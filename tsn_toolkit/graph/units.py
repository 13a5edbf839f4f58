"""Unit masks applied to a model: which entries of which tensor stay, and masking in place."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tsn_toolkit.contracts import ModelGraph
from tsn_toolkit.errors import GraphError

UnitMasks = Mapping[str, NDArray[np.bool_]]


def check_unit_masks(graph: ModelGraph, unit_masks: UnitMasks) -> None:
    """Refuse masks that cannot be applied.

    Raises:
        GraphError: if a mask names an unknown or a frozen group, has another size, or keeps no unit.
    """
    groups = {group.name: group for group in graph.groups}
    for name, mask in unit_masks.items():
        if name not in groups:
            near = get_close_matches(name, groups, 1)
            raise GraphError(f"No unit group is called `{name}`{f'; did you mean `{near[0]}`?' if near else ''}. Known: {', '.join(groups)}.")
        group, mask = groups[name], np.asarray(mask)
        if mask.dtype != np.bool_ or mask.shape != (group.size,):
            given = f"{mask.dtype} {mask.shape}"
            raise GraphError(f"The mask of group `{name}` must be bool of shape ({group.size},), got {given}. Give one bool per unit.")
        if not mask.any():
            raise GraphError(f"The mask of group `{name}` keeps 0 of {group.size} units; at least one must stay. Keep a unit.")
        if group.frozen and not mask.all():
            raise GraphError(f"Group `{name}` is frozen and may not lose units, got {int((~mask).sum())} dead: {group.frozen}. Keep all its units.")


def kept_entries(graph: ModelGraph, unit_masks: UnitMasks) -> dict[str, dict[int, NDArray[np.bool_]]]:
    """Parameter name -> dimension -> bool array over that dimension, True = stays. Only tensors that members of masked groups touch appear."""
    kept: dict[str, dict[int, NDArray[np.bool_]]] = {}
    for group in graph.groups:
        if group.name not in unit_masks:
            continue
        alive = np.append(np.asarray(unit_masks[group.name], dtype=np.bool_), True)  # unit -1 picks the last entry: not of this group, stays
        for member in group.members:
            dims = kept.setdefault(member.parameter, {})
            stays = alive[member.unit]
            dims[member.dim] = dims[member.dim] & stays if member.dim in dims else stays
    return kept


def tensors_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """Every parameter and buffer by its full name, tied ones under each of their names."""
    return {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers(remove_duplicate=False))}


def check_members(model: nn.Module, graph: ModelGraph, names: set[str]) -> None:
    """Refuse a model whose tensors are not those of the graph.

    Raises:
        GraphError: if a member's tensor is missing, or its dimension has another length.
    """
    tensors = tensors_of(model)
    for group in graph.groups:
        if group.name not in names:
            continue
        for member in group.members:
            tensor = tensors.get(member.parameter)
            if tensor is None or tensor.ndim <= member.dim or tensor.shape[member.dim] != len(member.unit):
                shape = None if tensor is None else tuple(tensor.shape)
                raise GraphError(
                    f"Dimension {member.dim} of `{member.parameter}` must have {len(member.unit)} entries as in the traced model, "
                    f"got shape {shape}. Use the model that the graph was traced from."
                )


def mask_units_(model: nn.Module, graph: ModelGraph, unit_masks: UnitMasks) -> None:
    """Zero in place everything that belongs to dead units: weights on both sides, biases, norm gains and shifts, running means; variances become 1.

    The masked model computes what the shrunk one computes, because a dead unit is read by nobody.

    Args:
        model: changed in place.
        graph: traced from this model or from one that differs only in the number of classes of its head.
        unit_masks: group name -> bool (size,), True = kept; groups left out keep all.

    Raises:
        GraphError: if a mask cannot be applied, or the model is not that of the graph.
    """
    check_unit_masks(graph, unit_masks)
    check_members(model, graph, set(unit_masks))
    tensors = tensors_of(model)
    with torch.no_grad():
        for name, dims in kept_entries(graph, unit_masks).items():
            value = 1.0 if name.rpartition(".")[2] == "running_var" else 0.0
            for dim, stays in dims.items():
                dead = torch.from_numpy(np.flatnonzero(~stays)).to(tensors[name].device)
                tensors[name].index_fill_(dim, dead, value)
