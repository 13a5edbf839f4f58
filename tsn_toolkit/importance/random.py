"""Random scores: the control that every criterion must beat."""

from __future__ import annotations

import zlib

import numpy as np
from numpy.typing import NDArray
from torch import nn

from tsn_toolkit.contracts import ModelGraph
from tsn_toolkit.importance._per_unit import prunable_groups
from tsn_toolkit.importance._per_weight import Batches, Loss, layer_weights


def score(model: nn.Module, graph: ModelGraph, batches: Batches = (), loss: Loss | None = None, *, seed: int = 0) -> dict[str, NDArray[np.float64]]:
    """Uniform in [0, 1) from `seed` and the group's name, so that one group's scores do not depend on the others; the rest is not used."""
    return {group.name: _draw(seed, group.name, (group.size,)) for group in prunable_groups(graph)}


def weight_scores(
    model: nn.Module,
    graph: ModelGraph,
    batches: Batches = (),
    loss: Loss | None = None,
    *,
    seed: int = 0,
) -> dict[str, NDArray[np.float64]]:
    """Uniform in [0, 1) from `seed` and the layer's name; the rest is not used."""
    return {name: _draw(seed, f"{name}.weight", tuple(weight.shape)) for name, weight in layer_weights(model, graph).items()}


def _draw(seed: int, name: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
    return np.random.default_rng([seed, zlib.crc32(name.encode())]).random(shape)
