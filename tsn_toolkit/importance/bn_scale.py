"""Batch norm scale: |gain| of the norms behind a unit (Liu et al., "Learning Efficient Convolutional Networks through Network Slimming", 2017).

    s_u = sum over the group's batch norms: |gain[u]|

Deviation: no L1 penalty is trained first. Norms that read a concatenation count for the units they see.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from tsn_toolkit.contracts import ModelGraph
from tsn_toolkit.errors import GraphError
from tsn_toolkit.importance._per_unit import add_per_unit, prunable_groups
from tsn_toolkit.importance._per_weight import Batches, Loss


def score(model: nn.Module, graph: ModelGraph, batches: Batches = (), loss: Loss | None = None) -> dict[str, NDArray[np.float64]]:
    """Sum of |gain| per unit; `batches` and `loss` are not used.

    Raises:
        GraphError: if a group that may lose units has no batch norm with a gain.
    """
    scores = {}
    for group in prunable_groups(graph):
        total, norms = np.zeros(group.size), 0
        for member in group.members:
            path, _, leaf = member.parameter.rpartition(".")
            if leaf == "weight" and isinstance(model.get_submodule(path), _BatchNorm):
                add_per_unit(total, member, model.get_parameter(member.parameter).detach().abs())
                norms += 1
        if not norms:
            raise GraphError(f"Group `{group.name}` has no batch norm with a gain, which `bn_scale` needs. Use `taylor` or `magnitude`.")
        scores[group.name] = total
    return scores
