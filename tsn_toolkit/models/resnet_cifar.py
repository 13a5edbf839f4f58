"""Residual networks for 32x32 images, with the layout and the state-dict names of the public CIFAR-100 checkpoints.

Stem `conv1` 3x3 to 64 channels, `bn1`, ReLU; `layer1..3` of basic blocks with 16, 32, 64 channels and strides 1, 2, 2; the first block of every layer
has a projection `shortcut`; no ReLU after the addition inside a block, one after each layer; average pool 4, flatten, `linear`.
"""

from __future__ import annotations

import torch
from torch import nn

from tsn_toolkit.errors import ModelError

STEM_CHANNELS = 64
LAYER_CHANNELS = (16, 32, 64)
LAYER_STRIDES = (1, 2, 2)
POOL = 4
POOLED_POSITIONS = 4
"""A 32x32 image is 8x8 after the strides and 2x2 after the pool."""


class BasicBlock(nn.Module):
    """conv-norm-ReLU-conv-norm plus the shortcut, (n, in, h, w) -> (n, out, h/stride, w/stride)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, *, project: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut = nn.Sequential()
        if project:
            self.shortcut = nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False), nn.BatchNorm2d(out_channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        total: torch.Tensor = self.bn2(self.conv2(y)) + self.shortcut(x)
        return total


class CifarResNet(nn.Module):
    """Images (n, 3, 32, 32) -> logits (n, classes)."""

    def __init__(self, blocks_per_layer: int, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, STEM_CHANNELS, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM_CHANNELS)
        ins = (STEM_CHANNELS, *LAYER_CHANNELS[:-1])
        layers = [_layer(i, o, s, blocks_per_layer) for i, o, s in zip(ins, LAYER_CHANNELS, LAYER_STRIDES, strict=True)]
        self.layer1, self.layer2, self.layer3 = layers
        self.linear = nn.Linear(LAYER_CHANNELS[-1] * POOLED_POSITIONS, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        for layer in (self.layer1, self.layer2, self.layer3):
            x = torch.relu(layer(x))
        logits: torch.Tensor = self.linear(nn.functional.avg_pool2d(x, POOL).flatten(1))
        return logits


def _layer(in_channels: int, out_channels: int, stride: int, blocks: int) -> nn.Sequential:
    """`blocks` basic blocks; only the first changes channels and resolution."""
    first = BasicBlock(in_channels, out_channels, stride, project=True)
    return nn.Sequential(first, *(BasicBlock(out_channels, out_channels, 1, project=False) for _ in range(blocks - 1)))


def resnet(depth: int = 20, classes: int = 100) -> CifarResNet:
    """A fresh network of `depth` = 6 n + 2 layers (8, 20, 32, ...) with `classes` logits.

    Raises:
        ModelError: if `depth` is not 6 n + 2 with n >= 1, or `classes` is not positive.
    """
    if depth < 8 or (depth - 2) % 6:
        raise ModelError(f"`depth` of resnet must be 6 n + 2 with n >= 1 (8, 14, 20, 32, ...), got {depth}. Choose one of these.")
    if classes < 1:
        raise ModelError(f"`classes` of resnet must be at least 1, got {classes}. Give the number of logits.")
    return CifarResNet((depth - 2) // 6, classes)
