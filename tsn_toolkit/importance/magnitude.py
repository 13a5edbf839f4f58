"""Magnitude: the L2 norm of the weights that make a unit, over all producers of its group.

Li et al., "Pruning Filters for Efficient ConvNets", 2017:

    s_u = sqrt(sum over producers, over weights w of output u: w^2)

Deviation: the paper takes the L1 norm; L2 is the usual choice since. One by one, weights score |w| (Han et al., "Learning both Weights
and Connections for Efficient Neural Networks", 2015).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import nn

from tsn_toolkit.contracts import ModelGraph
from tsn_toolkit.importance._per_unit import producer_sums, weights_of_producers
from tsn_toolkit.importance._per_weight import Batches, Loss, as_scores, layer_weights


def score(model: nn.Module, graph: ModelGraph, batches: Batches = (), loss: Loss | None = None) -> dict[str, NDArray[np.float64]]:
    """L2 norm per unit; `batches` and `loss` are not used."""
    squares = {name: weight.detach().double() ** 2 for name, weight in weights_of_producers(model, graph).items()}
    return {group: np.sqrt(total) for group, total in producer_sums(model, graph, squares).items()}


def weight_scores(model: nn.Module, graph: ModelGraph, batches: Batches = (), loss: Loss | None = None) -> dict[str, NDArray[np.float64]]:
    """|w| per weight; `batches` and `loss` are not used."""
    return {name: as_scores(weight.detach().double().abs()) for name, weight in layer_weights(model, graph).items()}
