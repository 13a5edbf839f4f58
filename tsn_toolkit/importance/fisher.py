"""Diagonal Fisher on weights (LeCun et al., "Optimal Brain Damage", 1990, with the empirical Fisher as the Hessian's diagonal).

    s_u = 1/2 sum over producers, over weights w of output u: w^2 * mean over batches of n (dL/dw)^2

Deviation: gradients are taken per batch of n examples, not per example; n (mean gradient)^2 has the expectation of the per-example square where the
mean gradient is small, as it is in a trained network. Interactions between weights are left out, as in the paper.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tsn_toolkit.contracts import ModelGraph
from tsn_toolkit.importance._per_unit import add_per_unit, producer_weights, prunable_groups, sum_along


def score(
    model: nn.Module,
    graph: ModelGraph,
    batches: Sequence[tuple[torch.Tensor, torch.Tensor]],
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> dict[str, NDArray[np.float64]]:
    """Loss increase per unit in the diagonal approximation, with the model in eval mode; arguments as in `taylor`."""
    assert len(batches), "fisher needs at least one batch"
    quiet = copy.deepcopy(model).eval().requires_grad_(True)
    groups = prunable_groups(graph)
    weights = {member.parameter: weight for group in groups for member, weight in producer_weights(quiet, group)}
    squares = {name: torch.zeros(weight.shape, dtype=torch.float64, device=weight.device) for name, weight in weights.items()}
    for x, y in batches:
        with torch.enable_grad():
            gradients = torch.autograd.grad(loss(quiet(x), y), list(weights.values()), allow_unused=True)
        for name, gradient in zip(weights, gradients, strict=True):
            if gradient is not None:
                squares[name] += len(x) * gradient.double() ** 2 / len(batches)
    scores = {}
    for group in groups:
        scores[group.name] = np.zeros(group.size)
        for member, weight in producer_weights(quiet, group):
            add_per_unit(scores[group.name], member, sum_along(0.5 * weight.detach().double() ** 2 * squares[member.parameter], member.dim))
    return scores
