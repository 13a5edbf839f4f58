"""A network of depthwise separable convolutions for 32x32 images, in the style of MobileNet (Howard et al., 2017).

Stem 3x3 with stride 2 to `width` channels, then four blocks of a depthwise 3x3 and a pointwise 1x1 convolution, each followed by a batch norm and
ReLU6, with 2, 4, 4, 8 times `width` channels and strides 1, 2, 1, 2 (32 -> 16, 16, 8, 8, 4 pixels); mean over all positions; a linear head. These are
the first five layers of the paper's network, with ReLU6 in place of ReLU.
"""

from __future__ import annotations

import torch
from torch import nn

from tsn_toolkit.errors import ModelError

BLOCKS = ((2, 1), (4, 2), (4, 1), (8, 2))
"""(channels in units of the width, stride) of each block."""


class DepthwiseCifar(nn.Module):
    """Images (n, 3, 32, 32) -> logits (n, classes)."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.stem = _normed(nn.Conv2d(3, width, 3, stride=2, padding=1, bias=False))
        blocks, channels = [], width
        for times, stride in BLOCKS:
            depthwise = _normed(nn.Conv2d(channels, channels, 3, stride=stride, padding=1, groups=channels, bias=False))
            blocks.append(nn.Sequential(depthwise, _normed(nn.Conv2d(channels, times * width, 1, bias=False))))
            channels = times * width
        self.blocks = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(channels, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.pool(self.blocks(self.stem(x))).flatten(1))
        return logits


def _normed(convolution: nn.Conv2d) -> nn.Sequential:
    """The convolution with its batch norm and ReLU6."""
    return nn.Sequential(convolution, nn.BatchNorm2d(convolution.out_channels), nn.ReLU6())


def depthwise_cifar(width: int = 32, classes: int = 10) -> DepthwiseCifar:
    """A fresh network, 66 thousand weights at the defaults.

    Raises:
        ModelError: if a number is not positive.
    """
    for name, value in (("width", width), ("classes", classes)):
        if value < 1:
            raise ModelError(f"`{name}` of depthwise_cifar must be at least 1, got {value}. Give a positive number.")
    return DepthwiseCifar(width, classes)
