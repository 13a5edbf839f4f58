"""Task-aware dynamic masking with whole units: the coarse form of `parts/dynamic_mask.py`, in which what goes is not computed any more.

    importance(unit) = sum over the weights w that make the unit of |w| + gradient_weight * |dL/dw|,   L on current and replayed examples together

A group (units that stand or fall together) keeps round(sqrt(1 - sparsity) * size) of its units: a layer between two such groups then loses the share
`sparsity` of its weights, and a layer of which only one side may lose units, such as the first and the head, the share 1 - sqrt(1 - sparsity).

Between tasks the least important units of a group make room for removed ones that are drawn at random. A unit that comes back has fresh incoming
weights and outgoing weights of 0: it changes no answer before training has found a use for it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tsn_toolkit.contracts import ModelGraph
from tsn_toolkit.errors import PlanError
from tsn_toolkit.graph.layers import output_dims
from tsn_toolkit.graph.units import tensors_of
from tsn_toolkit.importance._per_unit import producer_sums, weights_of_producers
from tsn_toolkit.parts.dynamic_mask import importance
from tsn_toolkit.plan.choose import best

Masks = Mapping[str, NDArray[np.bool_]]


def kept_count(size: int, sparsity: float) -> int:
    """Units of a group of `size` that stay; one at least.

    >>> [kept_count(size, 0.75) for size in (1, 3, 24)]
    [1, 2, 12]
    """
    return max(1, round(math.sqrt(1 - sparsity) * size))


def unit_importance(model: nn.Module, graph: ModelGraph, gradient_weight: float) -> dict[str, NDArray[np.float64]]:
    """Group name -> importance (size,) of every unit of the groups that may lose some; gradients are those that lie in `model`.

    Args:
        model: the full module.
        graph: of the pristine module.
        gradient_weight: of the gradient's size.
    """
    weights = weights_of_producers(model, graph)
    return producer_sums(model, graph, {name: importance(weight, weight.grad, gradient_weight) for name, weight in weights.items()})


def choose_units(model: nn.Module, graph: ModelGraph, *, sparsity: float, gradient_weight: float) -> dict[str, NDArray[np.bool_]]:
    """Group name -> bool (size,), True at the units that stay, the most important ones; of equal ones the lower index stays.

    Args:
        model: the full module, with the gradients of the last step.
        graph: of the pristine module.
        sparsity: share of the weights that goes where both sides of a layer lose units, 0..1.
        gradient_weight: of the gradient's size in the importance.

    Raises:
        PlanError: no group may lose units.
    """
    scores = unit_importance(model, graph, gradient_weight)
    if not scores:
        reasons = "; ".join(f"`{group.name}`: {group.frozen}" for group in graph.groups) or "it has no groups of units"
        raise PlanError(f"No units of this model can be removed ({reasons}). Mask single weights: `strategy.options.granularity: element`.")
    return {name: best(values, kept_count(len(values), sparsity)) for name, values in scores.items()}


@torch.no_grad()
def redraw_units_(
    model: nn.Module, graph: ModelGraph, masks: Masks, *, share: float, fresh: nn.Module, generator: torch.Generator
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
