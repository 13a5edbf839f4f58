"""Units exchanged between tasks: the inter-task part of task-aware dynamic masking (`parts/dynamic_mask.py`), with whole units.

The least important units of a group make room for removed ones that are drawn at random. A unit that comes back has fresh incoming weights and
outgoing weights of 0: it changes no answer before training has found a use for it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tsn_toolkit.contracts import ModelGraph
from tsn_toolkit.graph.layers import output_dims
from tsn_toolkit.graph.units import UnitMasks, tensors_of
from tsn_toolkit.parts.dynamic_units import unit_importance
from tsn_toolkit.plan.choose import best


@torch.no_grad()
def redraw_units_(
    model: nn.Module, graph: ModelGraph, masks: UnitMasks, *, share: float, fresh: nn.Module, generator: torch.Generator
) -> dict[str, NDArray[np.bool_]]:
    """Exchanges units of every group for removed ones: the new masks; in `model`, in place, the numbers of those that come back.

    Args:
        model: the full module, with values in the units that stay.
        graph: of the pristine module.
        masks: group name -> bool (size,), True at the units that there are.
        share: of the units that there are, the part that goes, 0..1; never the last one, nor more than there are to come back.
        fresh: a module like `model`, but for the number of logits, with fresh values.
        generator: of the draw, on the CPU.
    """
    scores, drawn, redrawn = unit_importance(model, graph, 0.0), {}, {}
    for name, mask in masks.items():
        kept, gone = int(mask.sum()), np.flatnonzero(~mask)
        count = min(round(share * kept), kept - 1, len(gone))
        drawn[name] = gone[torch.randperm(len(gone), generator=generator)[:count].numpy()]
        redrawn[name] = best(np.where(mask, scores[name], -np.inf), kept - count)
        redrawn[name][drawn[name]] = True
    _enter_(model, graph, drawn, fresh)
    return redrawn


def _enter_(model: nn.Module, graph: ModelGraph, units: Mapping[str, NDArray[np.int64]], fresh: nn.Module) -> None:
    """What makes these units is fresh, what reads them 0, in place; readers come last, because a weight may lie between two units that enter."""
    tensors, values = tensors_of(model), tensors_of(fresh)
    members = [(member, units[group.name]) for group in graph.groups if group.name in units for member in group.members]
    readers = []
    for member, entering in members:
        path, _, leaf = member.parameter.rpartition(".")
        tensor = tensors[member.parameter]
        entries = torch.from_numpy(np.flatnonzero(np.isin(member.unit, entering))).to(tensor.device)
        if tensor.ndim == 1 or (leaf, member.dim) in output_dims(model.get_submodule(path)):
            tensor.index_copy_(member.dim, entries, values[member.parameter].to(tensor.device).index_select(member.dim, entries))
        else:
            readers.append((tensor, member.dim, entries))
    for tensor, dim, entries in readers:
        tensor.index_fill_(dim, entries, 0.0)
