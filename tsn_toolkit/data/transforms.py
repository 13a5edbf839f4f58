"""The same examples seen otherwise: what makes a task out of all classes of the data."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from torch.nn import functional

from tsn_toolkit.contracts import Split
from tsn_toolkit.data.streams import Stream, order_expression, raw_numbers
from tsn_toolkit.errors import DataError

CHUNK = 4096
"""Images rotated at once: floats need four times the memory of bytes."""


def permute_pixels(split: Split, seed: int, index: int) -> Split:
    """Permute the positions of every example in the same way, channels kept together; task 0 is the identity.

    Args:
        split: x (n, features) or (n, channels, ...).
        seed: of the recipe.
        index: of the task.
    """
    if index == 0:
        return split
    lead = 1 if split.x.ndim == 2 else 2
    flat = split.x.flatten(lead) if split.x.ndim > lead else split.x  # (n, features) or (n, channels, positions)
    order = np.argsort(raw_numbers(seed, index, Stream.PIXELS, flat.shape[-1]), kind="stable")
    positions = flat.shape[-1]
    reading = split.reading.then(f"its {positions} positions taken in the order {order_expression(seed, index, Stream.PIXELS, positions)}")
    return replace(split, x=flat[..., torch.from_numpy(order)].reshape(split.x.shape), reading=reading)


def rotate(split: Split, angle: float) -> Split:
    """Turn every image about its centre; corners that come into view are 0.

    Args:
        split: x (n, channels, height, width); bytes are rounded.
        angle: degrees, counterclockwise.

    Raises:
        DataError: the examples are no images.
    """
    if split.x.ndim != 4:
        raise DataError(f"`split: rotation` needs images (n, channels, height, width), got examples of shape {tuple(split.x.shape[1:])}.")
    if angle % 360 == 0:
        return split
    turned = torch.cat([_rotated(chunk, angle) for chunk in torch.split(split.x, CHUNK)])
    return replace(split, x=turned, reading=split.reading.then(f"turned by {angle:g} degrees counterclockwise, bilinear, what comes into view 0"))


def _rotated(x: torch.Tensor, angle: float) -> torch.Tensor:
    """Bilinear: each pixel of the result is read where the opposite turn takes it."""
    height, width = x.shape[2:]
    sin, cos = math.sin(math.radians(angle)), math.cos(math.radians(angle))
    # Coordinates run from -1 to 1 along both sides, rows downwards, so sines carry the ratio of the sides.
    turn = torch.tensor([[cos, -sin * height / width, 0.0], [sin * width / height, cos, 0.0]])
    grid = functional.affine_grid(turn[None].expand(len(x), -1, -1), list(x.shape), align_corners=False)
    values = functional.grid_sample(x.float(), grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return values.round().clamp(0, 255).to(torch.uint8) if x.dtype == torch.uint8 else values
