"""The weights that criteria score one by one, and their gradients on a private copy of the model."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tsn_toolkit.contracts import ModelGraph
from tsn_toolkit.errors import DataError

Batches = Sequence[tuple[torch.Tensor, torch.Tensor]]
"""(x, y) pairs: x (n, ...) ready for the model, y int64 (n,)."""
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""From logits and y to the mean over the batch, a scalar."""


def layer_weights(model: nn.Module, graph: ModelGraph) -> dict[str, torch.Tensor]:
    """Layer name -> weight of every codable layer in execution order, the head included."""
    return {layer.name: model.get_parameter(f"{layer.name}.weight") for layer in graph.layers}


def as_scores(values: torch.Tensor) -> NDArray[np.float64]:
    """A tensor as a float64 array on the CPU."""
    array: NDArray[np.float64] = values.detach().double().cpu().numpy()
    return array


def require_batches(batches: Batches, criterion: str) -> None:
    """Refuse a criterion that looks at data and gets none.

    Raises:
        DataError: if there is no batch.
    """
    if not len(batches):
        raise DataError(f"Criterion `{criterion}` scores on examples and got no batch. Give at least one (x, y), or use `magnitude`.")


def quiet_copy(model: nn.Module) -> nn.Module:
    """A private copy in eval mode whose parameters all want gradients."""
    return copy.deepcopy(model).eval().requires_grad_(True)


def batch_gradients(
    quiet: nn.Module, weights: dict[str, torch.Tensor], batches: Batches, loss: Loss
) -> Iterator[tuple[int, dict[str, torch.Tensor]]]:
    """(examples, gradients of the batch's mean loss) of every batch: float64 tensors by the names of `weights`; zero where the loss does not depend.

    Args:
        quiet: from `quiet_copy`.
        weights: name -> parameter of `quiet`.
        batches: (x, y) pairs.
        loss: mean over the batch.
    """
    for x, y in batches:
        with torch.enable_grad():  # the caller may have switched gradients off
            gradients = torch.autograd.grad(loss(quiet(x), y), list(weights.values()), allow_unused=True)
        yield (
            len(x),
            {
                name: torch.zeros_like(weight, dtype=torch.float64) if gradient is None else gradient.to_dense().double()
                for (name, weight), gradient in zip(weights.items(), gradients, strict=True)
            },
        )
