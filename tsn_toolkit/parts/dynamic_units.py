"""Task-aware dynamic masking with whole units: the coarse form of `parts/dynamic_mask.py`, in which what goes is not computed any more.

    importance(unit) = sum over the weights w that make the unit of |w| + gradient_weight * |dL/dw|,   L on current and replayed examples together

A group (units that stand or fall together) keeps round(sqrt(1 - sparsity) * size) of its units: a layer between two such groups then loses the share
`sparsity` of its weights, and a layer of which only one side may lose units, such as the first and the head, the share 1 - sqrt(1 - sparsity).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from torch import nn

from tsn_toolkit.contracts import ModelGraph
from tsn_toolkit.errors import PlanError
from tsn_toolkit.importance._per_unit import producer_sums, weights_of_producers
from tsn_toolkit.parts.dynamic_mask import importance
from tsn_toolkit.plan.choose import best


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
