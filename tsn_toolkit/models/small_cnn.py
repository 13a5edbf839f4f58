"""A small convolutional network with batch norm and one residual addition, for 8x8 digits and other small images."""

from __future__ import annotations

import torch
from torch import nn

from tsn_toolkit.errors import ModelError


class SmallCnn(nn.Module):
    """Images (n, in_channels, h, w), h and w >= 4 -> logits (n, classes). Four 3x3 convolutions, the third and the second added."""

    def __init__(self, width: int, classes: int, in_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(2 * width)
        self.conv3 = nn.Conv2d(2 * width, 2 * width, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(2 * width)
        self.conv4 = nn.Conv2d(2 * width, 2 * width, 3, padding=1, bias=False)
        self.bn4 = nn.BatchNorm2d(2 * width)
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.head = nn.Linear(2 * width * 4, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(self.bn2(self.conv2(x)))
        x = torch.relu(self.bn3(self.conv3(x)) + x)
        x = torch.relu(self.bn4(self.conv4(x)))
        logits: torch.Tensor = self.head(self.pool(x).flatten(1))
        return logits


def small_cnn(width: int = 24, classes: int = 10, in_channels: int = 1) -> SmallCnn:
    """A fresh network, 55 thousand weights at the defaults.

    Raises:
        ModelError: if a number is not positive.
    """
    for name, value in (("width", width), ("classes", classes), ("in_channels", in_channels)):
        if value < 1:
            raise ModelError(f"`{name}` of small_cnn must be at least 1, got {value}. Give a positive number.")
    return SmallCnn(width, classes, in_channels)
