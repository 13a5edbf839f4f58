"""A shrunk model as data: unit masks that fit into JSON, and the user's own class in the shrunk shapes again.

masks = plan_of(graph, unit_masks)                    # with the state in safetensors, all that has to be kept
model = rebuild(factory, graph, masks)                # in another process
safetensors.torch.load_model(model, path)             # strictly
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tsn_toolkit.contracts import ModelGraph
from tsn_toolkit.errors import GraphError
from tsn_toolkit.graph.fingerprint import fingerprint
from tsn_toolkit.graph.shrink import sliced_copy
from tsn_toolkit.graph.units import UnitMasks, check_members, check_unit_masks


def plan_of(graph: ModelGraph, unit_masks: UnitMasks) -> dict[str, Any]:
    """What was removed, as plain values: the graph's fingerprint and the indices of the dead units of every group that lost some.

    Raises:
        GraphError: if a mask cannot be applied.
    """
    check_unit_masks(graph, unit_masks)
    groups = {name: {"size": len(mask), "dead": np.flatnonzero(~np.asarray(mask)).tolist()} for name, mask in unit_masks.items() if not np.all(mask)}
    return {"fingerprint": graph.fingerprint, "groups": groups}


def masks_of(graph: ModelGraph, plan: Mapping[str, Any]) -> dict[str, NDArray[np.bool_]]:
    """The unit masks that `plan_of` wrote.

    Raises:
        GraphError: if the plan is of another model, or names a unit that is not there.
    """
    if plan.get("fingerprint") != graph.fingerprint:
        raise GraphError(
            f"The plan was made for a model with fingerprint {str(plan.get('fingerprint'))[:12]}, this one has {graph.fingerprint[:12]}. "
            "Use the code and the settings that the plan was made with."
        )
    masks = {}
    for name, entry in plan.get("groups", {}).items():
        size, dead = entry["size"], entry["dead"]
        if any(not 0 <= index < size for index in dead):
            first = _outside(dead, size)
            raise GraphError(f"The dead units of group `{name}` must be in 0..{size - 1}, got {first}. Use the plan as it was written.")
        masks[name] = np.ones(size, dtype=np.bool_)
        masks[name][dead] = False
    check_unit_masks(graph, masks)
    return masks


def _outside(dead: Sequence[int], size: int) -> int:
    """The first index that is no unit."""
    return next(index for index in dead if not 0 <= index < size)


def rebuild(factory: Callable[[], nn.Module], graph: ModelGraph, plan: Mapping[str, Any]) -> nn.Module:
    """The user's own class in the shrunk shapes, eval mode; its values are those of the factory, sliced, until a state is loaded.

    Args:
        factory: makes the pristine model.
        graph: of the pristine model.
        plan: of `plan_of`.

    Raises:
        GraphError: if the factory makes another model than the graph's, or the plan does not fit.
    """
    masks = masks_of(graph, plan)
    model = factory()
    if fingerprint(model) != graph.fingerprint:
        raise GraphError("The factory makes another model than the one that the graph describes. Use the code that the graph was traced from.")
    check_members(model, graph, set(masks))
    with torch.no_grad():
        return sliced_copy(model, graph, masks)
