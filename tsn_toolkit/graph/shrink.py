"""Remove dead units from a copy of a model.

torch-pruning removes the units from a copy in which every parameter and buffer holds its own flat indices; what is left are the slots of the
survivors, which are then checked against the group members and used to fill the small model. So a wrong removal is an error, never a wrong model.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from tsn_toolkit.contracts import GroupMember, ModelGraph, ShrunkModel, UnitGroup
from tsn_toolkit.errors import GraphError
from tsn_toolkit.graph.coupling import build_dependencies, output_pruner
from tsn_toolkit.graph.probe import probe_input
from tsn_toolkit.graph.units import UnitMasks, check_members, check_unit_masks, kept_entries, tensors_of


def shrink(model: nn.Module, graph: ModelGraph, unit_masks: UnitMasks) -> ShrunkModel:
    """A copy of `model` without its dead units, eval mode, and the slot of every number in it.

    Args:
        model: the graph's model, or one whose head has another number of classes; not changed. Dead units may hold anything.
        graph: traced from the original model.
        unit_masks: group name -> bool (size,), True = kept; groups left out keep all.

    Raises:
        GraphError: if a mask cannot be applied, the model is not that of the graph or has no values (meta device), or torch-pruning removes
            something else than the group members say.
    """
    check_unit_masks(graph, unit_masks)
    check_members(model, graph, set(unit_masks))
    full = tensors_of(model)
    empty = [name for name, tensor in full.items() if tensor.is_meta]
    if empty:
        raise GraphError(f"`{empty[0]}` has no values (meta device); a model without values cannot be shrunk. Load its weights first.")
    small = copy.deepcopy(model).cpu().eval()
    dying = [group for group in graph.groups if group.name in unit_masks and not np.asarray(unit_masks[group.name]).all()]
    try:
        dependencies = build_dependencies(small, probe_input(small, graph)) if dying else None
        _fill_with_indices_(small)
        for group in dying:
            _remove_(small, dependencies, group, full, unit_masks[group.name])
    except Exception as error:
        raise GraphError(f"torch-pruning could not remove units ({type(error).__name__}: {error}). Keep all units of the group.") from error
    slots = {name: tensor.detach().round().to(torch.int64) for name, tensor in tensors_of(small).items()}
    _check_slots(slots, full, graph, unit_masks)
    _fill_with_values_(small, full, slots)
    persistent = small.state_dict().keys()
    return ShrunkModel(small.eval(), {name: slot for name, slot in slots.items() if name in persistent})


def _fill_with_indices_(model: nn.Module) -> None:
    """Let every parameter and buffer hold its own flat indices (float64 is exact up to 2**53)."""
    for module in model.modules():
        for parameter in module._parameters.values():
            if parameter is not None:
                parameter.data = torch.arange(parameter.numel(), dtype=torch.float64).reshape(parameter.shape)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.arange(buffer.numel()).reshape(buffer.shape)


def _remove_(model: nn.Module, dependencies: Any, group: UnitGroup, full: Mapping[str, torch.Tensor], mask: np.ndarray) -> None:
    """Remove the dead units of one group through its first producer."""
    member = _root_member(group)
    weight = model.get_parameter(member.parameter)
    stride = int(np.prod(full[member.parameter].shape[member.dim + 1 :]))
    original = (weight.detach().movedim(member.dim, 0).flatten(1)[:, 0].to(torch.int64).numpy() // stride) % len(member.unit)
    unit = member.unit[original]  # of the indices that earlier groups have left
    dead = np.flatnonzero((unit >= 0) & ~np.asarray(mask)[unit]).tolist()
    layer = model.get_submodule(group.producers[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dependencies.get_pruning_group(layer, output_pruner(dependencies, layer), dead).prune(record_history=False)


def _root_member(group: UnitGroup) -> GroupMember:
    """The member that is the output dimension of the first producer's weight."""
    name = f"{group.producers[0]}.weight"
    found = [member for member in group.members if member.parameter == name]
    covering = [member for member in found if set(range(group.size)) <= set(member.unit.tolist())]
    if not covering:
        raise GraphError(f"group `{group.name}` has no weight that holds all its units")
    return covering[0]


def _check_slots(slots: Mapping[str, torch.Tensor], full: Mapping[str, torch.Tensor], graph: ModelGraph, unit_masks: UnitMasks) -> None:
    """Compare what torch-pruning left with what the members say should be left.

    Raises:
        GraphError: naming the first tensor that differs.
    """
    kept = kept_entries(graph, unit_masks)
    for name, tensor in full.items():
        expected = np.arange(tensor.numel()).reshape(tensor.shape)
        for dim, stays in kept.get(name, {}).items():
            expected = np.compress(stays, expected, axis=dim)
        found = slots[name].numpy() if name in slots else None
        if found is None or found.shape != expected.shape or not np.array_equal(found, expected):
            shape = None if found is None else found.shape
            raise GraphError(f"torch-pruning left `{name}` with shape {shape}, its unit groups say {expected.shape}. Keep all units there.")


def _fill_with_values_(small: nn.Module, full: Mapping[str, torch.Tensor], slots: Mapping[str, torch.Tensor]) -> None:
    """Give every tensor of the small model the full model's values at its slots, dtype, device and gradient flag; ties stay ties."""
    ties: dict[int, nn.Parameter] = {}
    for path, module in small.named_modules(remove_duplicate=False):
        prefix = f"{path}." if path else ""
        for name in [name for name, tensor in module._parameters.items() if tensor is not None]:
            source = full[prefix + name]
            if id(source) not in ties:
                values = source.detach().flatten()[slots[prefix + name].to(source.device)]
                ties[id(source)] = nn.Parameter(values, requires_grad=source.requires_grad)
            module._parameters[name] = ties[id(source)]
        for name in [name for name, tensor in module._buffers.items() if tensor is not None]:
            source = full[prefix + name]
            module._buffers[name] = source.detach().flatten()[slots[prefix + name].to(source.device)].clone()
