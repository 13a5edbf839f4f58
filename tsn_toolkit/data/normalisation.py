"""Examples as the network sees them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tsn_toolkit.errors import DataError


def normalise(x: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(x - mean) / std per channel, after uint8 is scaled to [0, 1].

    Args:
        x: (n, channels, ...) uint8 or float.
        mean: one value per channel, or empty for no normalisation.
        std: as `mean`, each above 0.

    Returns:
        float32, same shape and device.

    Raises:
        DataError: `mean` or `std` has another length than x has channels.
    """
    values = x.to(torch.float32)
    if x.dtype == torch.uint8:
        values = values / 255.0
    if not len(mean) and not len(std):
        return values
    if not len(mean) == len(std) == x.shape[1]:
        raise DataError(f"mean has {len(mean)} values and std {len(std)}, the examples have {x.shape[1]} channels. Give one value per channel.")
    shape = (1, -1, *([1] * (x.ndim - 2)))
    centre = torch.tensor(tuple(mean), dtype=torch.float32, device=x.device).reshape(shape)
    spread = torch.tensor(tuple(std), dtype=torch.float32, device=x.device).reshape(shape)
    return (values - centre) / spread
