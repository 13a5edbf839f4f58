"""The mask of the k largest scores, exact and the same every time."""

from __future__ import annotations

import numpy as np
import torch

SAMPLED_FROM = 1 << 15
"""Scores from which on the threshold is first enclosed by a sample."""
SAMPLE = 1 << 14


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
    if keep == 0:
        return torch.zeros_like(flat, dtype=torch.bool).view(scores.shape)
    if keep == flat.numel():
        return torch.ones_like(flat, dtype=torch.bool).view(scores.shape)
    if flat.numel() >= SAMPLED_FROM:
        mask = _mask_by_sample(flat, keep)
        if mask is not None:
            return mask.view(scores.shape)
    threshold = _kth_largest(flat, keep)
    mask = flat >= threshold
    surplus = int(torch.count_nonzero(mask)) - keep
    if surplus:
        ties = (flat == threshold).nonzero().flatten()
        mask[ties[len(ties) - surplus :]] = False
    return mask.view(scores.shape)


def _mask_by_sample(flat: torch.Tensor, keep: int) -> torch.Tensor | None:
    """The mask of many values, exact; None where the sample misled.

    Quantiles of an evenly spaced sample, a few standard errors either side of the one looked for, enclose the `keep`-th largest value. All values
    above them are in, all below are out, and the order of those between alone is looked at. Counting shows whether they do enclose it.
    """
    sample = flat[:: flat.numel() // SAMPLE].contiguous()
    share = keep / flat.numel()
    centre, margin = share * len(sample), 4 * (share * (1 - share) * len(sample)) ** 0.5 + 2
    high, low = (_kth_largest(sample, min(len(sample), max(1, int(centre + side * margin) + 1))) for side in (-1, 1))
    mask = flat > high
    places = keep - int(torch.count_nonzero(mask))
    between = _positions((flat >= low) ^ mask)
    if not 0 < places <= len(between):
        return None
    values = flat[between]
    threshold = _kth_largest(values, places)
    mask[between[values > threshold]] = True
    ties = between[values == threshold]
    mask[ties[: places - int(torch.count_nonzero(values > threshold))]] = True
    return mask


def _positions(marked: torch.Tensor) -> torch.Tensor:
    """Positions of the True entries, int64; on the CPU numpy finds them in a fraction of torch's time."""
    if marked.device.type != "cpu":
        return marked.nonzero().flatten()
    return torch.from_numpy(np.flatnonzero(marked.numpy()))


def _kth_largest(flat: torch.Tensor, k: int) -> torch.Tensor:
    """The k-th largest value (scalar), k from 1."""
    return torch.kthvalue(flat, flat.numel() - k + 1).values
