"""Random flips and crops of image batches, vectorised: every image draws its own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from tsn_toolkit.errors import DataError

PAD = 4
"""Pixels of zeros around an image before it is cropped."""


def augment(x: Tensor, kinds: Sequence[str], generator: torch.Generator) -> Tensor:
    """Apply augmentations in the order given.

    Args:
        x: float (n, c, h, w), already normalised, so that the padding has the mean colour.
        kinds: `flip` or `crop`.
        generator: source of all randomness.

    Returns:
        A new tensor like x; x itself when `kinds` is empty.

    Raises:
        DataError: x is no batch of images, or a kind is unknown.
    """
    known = {"flip": flip, "crop": crop}
    for kind in kinds:
        if kind not in known:
            raise DataError(f"unknown augmentation {kind!r}; known: {', '.join(known)}.")
        if x.ndim != 4:
            raise DataError(f"augmentation {kind!r} needs images (n, c, h, w), got {tuple(x.shape)}. Set `training.augment` to [].")
        x = known[kind](x, generator)
    return x


def flip(x: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror each image left to right with probability one half; x (n, c, h, w)."""
    chosen = torch.rand(len(x), generator=generator, device=generator.device).to(x.device) < 0.5
    return torch.where(chosen[:, None, None, None], x.flip(3), x)


def crop(x: Tensor, generator: torch.Generator) -> Tensor:
    """Pad each image (n, c, h, w) with zeros and cut out a window of the old size at a random place."""
    count, channels, height, width = x.shape
    offsets = torch.randint(0, 2 * PAD + 1, (2, count, 1), generator=generator, device=generator.device).to(x.device)
    rows = offsets[0] + torch.arange(height, device=x.device)  # (n, h)
    columns = offsets[1] + torch.arange(width, device=x.device)  # (n, w)
    padded = functional.pad(x, (PAD, PAD, PAD, PAD))
    image = torch.arange(count, device=x.device)[:, None, None, None]
    channel = torch.arange(channels, device=x.device)[None, :, None, None]
    return padded[image, channel, rows[:, None, :, None], columns[:, None, None, :]]
