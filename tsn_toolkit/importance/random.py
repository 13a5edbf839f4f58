"""Random scores: the control that every criterion must beat."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tsn_toolkit.contracts import ModelGraph
from tsn_toolkit.importance._per_unit import prunable_groups


def score(
    model: nn.Module,
    graph: ModelGraph,
    batches: Sequence[tuple[torch.Tensor, torch.Tensor]] = (),
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
    *,
    seed: int = 0,
) -> dict[str, NDArray[np.float64]]:
    """Uniform in [0, 1) from `seed` and the group's name, so that one group's scores do not depend on the others; the rest is not used."""
    return {group.name: np.random.default_rng([seed, zlib.crc32(group.name.encode())]).random(group.size) for group in prunable_groups(graph)}
