"""The mask of the k largest scores, exact and the same every time.

On the CPU numpy does it: it compares and counts in a tenth of torch's time.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

SAMPLED_FROM = 1 << 15
"""Scores on the CPU from which on the threshold is first enclosed by a sample."""
SAMPLE = 1 << 14

Scores = NDArray[np.floating[Any]]


def keep_count(density: float, size: int) -> int:
    """Number of slots that a density keeps: the nearest integer, at least 1 of a layer that is not empty."""
    return min(size, max(1, round(density * size))) if size else 0


def top_mask(scores: torch.Tensor, keep: int) -> torch.Tensor:
    """Marks the `keep` largest scores.

    Args:
        scores: any shape, float; +inf is allowed, NaN is not.
        keep: number of entries to mark, 0..numel.

    Returns:
        bool tensor of the same shape with exactly `keep` True entries; ties go to the lower flat index.
    """
    flat = scores.detach().flatten()
    if not 0 <= keep <= flat.numel():
        raise ValueError(f"keep must be in 0..{flat.numel()}, got {keep}")
    if keep in (0, flat.numel()):
        return torch.full_like(flat, keep > 0, dtype=torch.bool).view(scores.shape)
    if flat.device.type != "cpu":
        return _mask_on_device(flat, keep).view(scores.shape)
    values: Scores = (flat.float() if flat.dtype == torch.bfloat16 else flat).numpy()
    mask = _mask_by_sample(values, keep) if len(values) >= SAMPLED_FROM else None
    return torch.from_numpy(_mask_by_order(values, keep) if mask is None else mask).view(scores.shape)


def _mask_by_sample(values: Scores, keep: int) -> NDArray[np.bool_] | None:
    """The mask of many values (n,), exact; None where the sample misled.

    Quantiles of an evenly spaced sample, a few standard errors either side of the one looked for, enclose the `keep`-th largest value. All values
    above them are in, all below are out, and the order of those between alone is looked at. Counting shows whether they do enclose it.
    """
    sample = values[:: len(values) // SAMPLE]
    share = keep / len(values)
    centre, margin = share * len(sample), 4 * (share * (1 - share) * len(sample)) ** 0.5 + 2
    high, low = (_kth_largest(sample, min(len(sample), max(1, int(centre + side * margin) + 1))) for side in (-1, 1))
    mask = values > high
    places = keep - int(np.count_nonzero(mask))
    between = np.flatnonzero((values >= low) ^ mask)
    if not 0 < places <= len(between):
        return None
    mask[between] = _mask_by_order(values[between], places)
    return mask


def _mask_by_order(values: Scores, keep: int) -> NDArray[np.bool_]:
    """The mask of few values (n,), 1 <= keep <= n."""
    threshold = _kth_largest(values, keep)
    mask = values > threshold
    mask[np.flatnonzero(values == threshold)[: keep - int(np.count_nonzero(mask))]] = True
    return mask


def _kth_largest(values: Scores, k: int) -> np.floating[Any]:
    """The k-th largest value, k from 1."""
    largest: np.floating[Any] = np.partition(values, len(values) - k)[len(values) - k]
    return largest


def _mask_on_device(flat: torch.Tensor, keep: int) -> torch.Tensor:
    threshold = torch.kthvalue(flat, flat.numel() - keep + 1).values
    mask = flat > threshold
    mask[(flat == threshold).nonzero().flatten()[: keep - int(torch.count_nonzero(mask))]] = True
    return mask
