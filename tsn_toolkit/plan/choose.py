"""Which units stay: the best scored ones, as many as the plan says."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from tsn_toolkit.contracts import CompressionPlan, ModelGraph
from tsn_toolkit.errors import PlanError
from tsn_toolkit.importance.ranking.checked import checked_scores


def choose_units(graph: ModelGraph, plan: CompressionPlan, scores: Mapping[str, NDArray[np.float64]]) -> dict[str, NDArray[np.bool_]]:
    """Group name -> bool mask (size,) of the `keep` best-scored units of every group of the plan; of equal scores the lower index stays.

    Raises:
        PlanError: if a group of the plan is not in the graph, has another size, or has no finite score for every unit.
    """
    sizes = {group.name: group.size for group in graph.groups}
    masks = {}
    for group in plan.groups:
        if sizes.get(group.name) != group.size:
            raise PlanError(f"Group `{group.name}` has {group.size} units in the plan and {sizes.get(group.name)} in the model. Make a new plan.")
        masks[group.name] = best(checked_scores(scores, {group.name: (group.size,)}, "group")[group.name], group.keep)
    return masks


def best(scores: NDArray[np.float64], keep: int) -> NDArray[np.bool_]:
    """True at the `keep` largest scores, ties to the lower index.

    >>> best(np.array([1.0, 3.0, 1.0, 2.0]), 3).tolist()
    [True, True, False, True]
    """
    mask = np.zeros(len(scores), dtype=np.bool_)
    mask[np.argsort(-scores, kind="stable")[:keep]] = True
    return mask
