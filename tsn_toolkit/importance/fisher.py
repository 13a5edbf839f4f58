"""Diagonal Fisher on weights (LeCun et al., "Optimal Brain Damage", 1990, with the empirical Fisher as the Hessian's diagonal).

    s_w = 1/2 w^2 * mean over batches of n (dL/dw)^2
    s_u = sum over producers, over weights w of output u: s_w

Deviation: gradients are taken per batch of n examples, not per example; n (mean gradient)^2 has the expectation of the per-example square where the
mean gradient is small, as it is in a trained network. Interactions between weights are left out, as in the paper.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tsn_toolkit.contracts import ModelGraph
from tsn_toolkit.importance._per_unit import producer_sums, weights_of_producers
from tsn_toolkit.importance._per_weight import Batches, Loss, as_scores, batch_gradients, layer_weights, quiet_copy, require_batches


def score(model: nn.Module, graph: ModelGraph, batches: Batches, loss: Loss) -> dict[str, NDArray[np.float64]]:
    """Loss increase per unit in the diagonal approximation, with the model in eval mode; arguments and errors as in `taylor`."""
    require_batches(batches, "fisher")
    quiet = quiet_copy(model)
    return producer_sums(quiet, graph, _increases(quiet, weights_of_producers(quiet, graph), batches, loss))


def weight_scores(model: nn.Module, graph: ModelGraph, batches: Batches, loss: Loss) -> dict[str, NDArray[np.float64]]:
    """Loss increase per weight in the diagonal approximation, with the model in eval mode; arguments and errors as in `taylor`."""
    require_batches(batches, "fisher")
    quiet = quiet_copy(model)
    return {name: as_scores(values) for name, values in _increases(quiet, layer_weights(quiet, graph), batches, loss).items()}


def _increases(quiet: nn.Module, weights: dict[str, torch.Tensor], batches: Batches, loss: Loss) -> dict[str, torch.Tensor]:
    """s_w by the names of `weights`."""
    squares = {name: torch.zeros_like(weight, dtype=torch.float64) for name, weight in weights.items()}
    for count, gradients in batch_gradients(quiet, weights, batches, loss):
        for name, gradient in gradients.items():
            squares[name] += count * gradient**2 / len(batches)
    return {name: 0.5 * weight.detach().double() ** 2 * squares[name] for name, weight in weights.items()}
