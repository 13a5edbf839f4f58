"""The mask of the k largest scores, exact and the same every time."""

from __future__ import annotations

import torch


def keep_count(density: float, size: int) -> int:
    """Number of slots that a density keeps: the nearest integer, at least 1 of a layer that is not empty."""
    return min(size, max(1, round(density * size))) if size else 0


def top_mask(scores: torch.Tensor, keep: int) -> torch.Tensor:
    """Marks the `keep` largest scores.

    Args:
        scores: any shape, float, finite.
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
    threshold = torch.kthvalue(flat, flat.numel() - keep + 1).values
    mask = flat > threshold
    ties = (flat == threshold).nonzero().flatten()
    mask[ties[: keep - int(mask.sum())]] = True
    return mask.view(scores.shape)
