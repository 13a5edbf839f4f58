"""Remove dead units from a copy of a model: slice every tensor, then set the numbers that count its entries."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from tsn_toolkit.contracts import ModelGraph, ShrunkModel
from tsn_toolkit.errors import GraphError
from tsn_toolkit.graph.layers import match_sizes_
from tsn_toolkit.graph.sizes import set_sizes_
from tsn_toolkit.graph.units import UnitMasks, check_members, check_unit_masks, kept_entries, tensors_of

Kept = Mapping[str, Mapping[int, "np.ndarray"]]


def shrink(model: nn.Module, graph: ModelGraph, unit_masks: UnitMasks) -> ShrunkModel:
    """A copy of `model` without its dead units, eval mode, and the slot of every number in it.

    Args:
        model: the graph's model, or one whose head has another number of classes; not changed. Dead units may hold anything.
        graph: traced from the original model.
        unit_masks: group name -> bool (size,), True = kept; groups left out keep all.

    Raises:
        GraphError: if a mask cannot be applied, or the model is not that of the graph or has no values (meta device).
    """
    check_unit_masks(graph, unit_masks)
    check_members(model, graph, set(unit_masks))
    full = tensors_of(model)
    empty = [name for name, tensor in full.items() if tensor.is_meta]
    if empty:
        raise GraphError(f"`{empty[0]}` has no values (meta device); a model without values cannot be shrunk. Load its weights first.")
    kept = kept_entries(graph, unit_masks)
    small = sliced_copy(model, graph, unit_masks)
    return ShrunkModel(small, {name: _slots(full[name], kept.get(name, {})) for name in small.state_dict()})


def sliced_copy(model: nn.Module, graph: ModelGraph, unit_masks: UnitMasks) -> nn.Module:
    """A copy in eval mode in which every tensor holds the entries that stay; tensors may be without values (meta device).

    The tensors of `model` are not copied whole, so that a large model needs memory for the small one only.
    """
    tensors = {id(tensor): tensor for tensor in tensors_of(model).values()}
    gradients = {id(tensor.grad): tensor.grad for tensor in tensors.values() if tensor.grad is not None}
    small = copy.deepcopy(model, {**tensors, **gradients}).eval()
    kept = kept_entries(graph, unit_masks)
    ties: dict[int, torch.Tensor] = {}
    for path, module in small.named_modules(remove_duplicate=False):
        prefix = f"{path}." if path else ""
        for store in (module._parameters, module._buffers):
            for name, tensor in store.items():
                if tensor is not None and id(tensor) in tensors:
                    if id(tensor) not in ties:
                        ties[id(tensor)] = _sliced(tensor, kept.get(prefix + name, {}))
                    store[name] = ties[id(tensor)]
    match_sizes_(small)
    set_sizes_(small, graph, unit_masks)
    return small


def _sliced(tensor: torch.Tensor, kept: Mapping[int, np.ndarray]) -> torch.Tensor:
    """A new tensor of the entries that stay, with the same gradient flag."""
    values = tensor.detach()
    for dim, stays in kept.items():
        values = values.index_select(dim, torch.from_numpy(np.flatnonzero(stays)).to(values.device))
    values = values if kept else values.clone()
    return nn.Parameter(values, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else values


def _slots(tensor: torch.Tensor, kept: Mapping[int, np.ndarray]) -> torch.Tensor:
    """Flat indices of the entries that stay, in the shape of the small tensor."""
    slots = torch.zeros((), dtype=torch.int64)
    for dim, length in enumerate(tensor.shape):
        indices = torch.from_numpy(np.flatnonzero(kept[dim])) if dim in kept else torch.arange(length)
        slots = slots[..., None] * length + indices
    return slots
