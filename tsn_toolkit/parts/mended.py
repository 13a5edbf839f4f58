"""A trained network without some of its units, mended in closed form: how a task over a trained trunk starts, before it is trained."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tsn_toolkit.contracts import ModelGraph
from tsn_toolkit.graph.shrink import shrink
from tsn_toolkit.parts.reconstruction import reconstruct_


def mended(
    model: nn.Module,
    graph: ModelGraph,
    inputs: torch.Tensor,
    masks: Mapping[str, NDArray[np.bool_]],
    *,
    free: frozenset[str],
    ridge: float = 1e-3,
) -> nn.Module:
    """The small network, layers that lost inputs fitted anew and norms matched.

    Args:
        model: trained, in evaluation mode; left as it is.
        graph: of the model.
        inputs: (n, ...), normalised; what the layers are fitted on.
        masks: group name -> bool (size,), True = stays; groups left out keep all.
        free: layers that may get new weights.
        ridge: pull towards the old weights, relative to the mean squared input.
    """
    small = shrink(model, graph, masks)
    reconstruct_(small.model, model, small.slots, inputs, ridge=ridge, free=free)
    return small.model
