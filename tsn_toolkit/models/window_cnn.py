"""A 1-d convolutional network for windows of sensor channels, for example the 9 channels by 128 samples of UCI HAR."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from tsn_toolkit.errors import ModelError

KERNEL = 5


class WindowCnn(nn.Module):
    """Windows (n, channels, samples) -> logits (n, classes). Convolutions of kernel 5 and stride 2 with batch norm and ReLU, mean over time, head."""

    def __init__(self, channels: int, widths: Sequence[int], classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in zip((channels, *widths[:-1]), widths, strict=True):
            layers += [nn.Conv1d(inputs, outputs, KERNEL, stride=2, padding=KERNEL // 2, bias=False), nn.BatchNorm1d(outputs), nn.ReLU()]
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool1d(1)
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.pool(self.features(x)).flatten(1))
        return logits


def window_cnn(channels: int = 9, widths: Sequence[int] = (32, 64, 64), classes: int = 6) -> WindowCnn:
    """A fresh network, 33 thousand weights at the defaults.

    Args:
        channels: of a window.
        widths: channels of each convolution.
        classes: logits.

    Raises:
        ModelError: there is no convolution, or a number is not positive.
    """
    if not len(widths):
        raise ModelError("`widths` of window_cnn names no convolution. Give at least one number of channels.")
    if min(channels, classes, *widths) < 1:
        raise ModelError(f"the numbers of window_cnn must be at least 1, got channels={channels}, widths={list(widths)}, classes={classes}.")
    return WindowCnn(channels, widths, classes)
