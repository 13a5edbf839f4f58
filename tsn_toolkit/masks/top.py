"""The mask of the k largest scores, exact and the same every time."""

from __future__ import annotations

import torch

SAMPLED_FROM = 1 << 15
"""Scores from which on the threshold is first enclosed by a sample."""
SAMPLE = 4096


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
    threshold = _kth_largest(flat, keep)
    mask = flat >= threshold
    surplus = int(torch.count_nonzero(mask)) - keep
    if surplus:
        ties = (flat == threshold).nonzero().flatten()
        mask[ties[len(ties) - surplus :]] = False
    return mask.view(scores.shape)


def _kth_largest(flat: torch.Tensor, keep: int) -> torch.Tensor:
    """The `keep`-th largest value (scalar), exact.

    Of many values, quantiles of an evenly spaced sample a few standard errors either side enclose it; then only the values between them are searched.
    Where counting shows that they do not enclose it, all are.
    """
    size = flat.numel()
    if size < SAMPLED_FROM:
        return torch.kthvalue(flat, size - keep + 1).values
    sample = flat[:: size // SAMPLE].sort(descending=True).values
    share = keep / size
    centre, margin = share * len(sample), 4 * (share * (1 - share) * len(sample)) ** 0.5 + 2
    high, low = sample[max(0, int(centre - margin))], sample[min(len(sample) - 1, int(centre + margin))]
    above = int(torch.count_nonzero(flat > high))
    between = flat[(flat >= low) & (flat <= high)]
    if not above < keep <= above + between.numel():
        return torch.kthvalue(flat, size - keep + 1).values
    return torch.kthvalue(between, between.numel() - (keep - above) + 1).values
