"""Examples of several data sets brought to the one shape that a network takes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional

from tsn_toolkit.errors import DataError

LUMINANCE = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in grey (ITU-R BT.601)."""
CHUNK = 4096
"""Images resized at once: floats need four times the memory of bytes."""


def bring_to_shape(x: torch.Tensor, shape: Sequence[int], *, origin: str) -> torch.Tensor:
    """Resize images and turn colour into grey or grey into colour.

    Args:
        x: (n, ...) uint8 or float.
        shape: of one example, channels first.
        origin: where the examples come from, for messages.

    Returns:
        (n, *shape) of x's dtype; x itself where nothing is to be done. Sizes change by bilinear interpolation with antialiasing, bytes are rounded.

    Raises:
        DataError: the examples are no images, or their channels cannot be turned into those of `shape`.
    """
    here, wanted = tuple(x.shape[1:]), tuple(shape)
    if here == wanted:
        return x
    if len(here) != 3 or len(wanted) != 3:
        raise DataError(
            f"{origin}: examples of shape {here} cannot be brought to `data.input_shape` {wanted}; only images (channels, height, width) can. "
            "Correct the shape."
        )
    if here[0] != wanted[0] and {here[0], wanted[0]} != {1, 3}:
        raise DataError(
            f"{origin}: images of {here[0]} channels cannot be brought to the {wanted[0]} of `data.input_shape` {wanted}; only 1 and 3 channels turn "
            "into each other. Correct the shape."
        )
    return torch.cat([_converted(chunk, wanted) for chunk in torch.split(x, CHUNK)])


def _converted(x: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    values = x.float()
    if values.shape[1] == 3 and shape[0] == 1:
        values = (values * torch.tensor(LUMINANCE).view(1, 3, 1, 1)).sum(1, keepdim=True)
    if values.shape[2:] != shape[1:]:
        values = functional.interpolate(values, size=shape[1:], mode="bilinear", antialias=True, align_corners=False)
    if values.shape[1] == 1 and shape[0] == 3:
        values = values.expand(-1, 3, -1, -1)
    return values.round().clamp(0, 255).to(torch.uint8) if x.dtype == torch.uint8 else values
