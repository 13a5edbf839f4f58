"""The AlexNet-like network of continual-learning papers on Split CIFAR-100 (Kang et al., ICML 2022), with narrower linear layers.

Three convolutions without padding, 64 4x4, 128 3x3 and 256 2x2, each followed by a batch norm, ReLU and a 2x2 max pool (32 -> 14 -> 6 -> 2 pixels);
linear 1024 -> 512 -> 512, each with a batch norm and ReLU; a linear head. 994,304 weights without the head.

Deviations from the paper's network: linear layers of 512 units in place of 2048; batch norms have an affine part and running statistics, so that a
single example has an answer; no dropout. With `stem_stride` 2 the first convolution steps by 2 (with 1 pixel of padding) and the third has no pool
(32 -> 16, 8 -> 6, 3 -> 2 pixels): the same weights for 4.8 M multiply-accumulates in place of 17.3 M.
"""

from __future__ import annotations

import torch
from torch import nn

from tsn_toolkit.errors import ModelError

CHANNELS = (64, 128, 256)
KERNELS = (4, 3, 2)
POOLED_POSITIONS = 4
"""A 32x32 image is 2x2 after the last pool."""
HIDDEN = 512


class AlexnetCifar(nn.Module):
    """Images (n, 3, 32, 32) -> logits (n, classes)."""

    def __init__(self, classes: int, stem_stride: int) -> None:
        super().__init__()
        ins = (3, *CHANNELS[:-1])
        blocks = [
            nn.Sequential(nn.Conv2d(i, o, kernel, bias=False), nn.BatchNorm2d(o), nn.ReLU(), nn.MaxPool2d(2))
            for i, o, kernel in zip(ins, CHANNELS, KERNELS, strict=True)
        ]
        if stem_stride == 2:
            blocks[0][0] = nn.Conv2d(ins[0], CHANNELS[0], KERNELS[0], stride=2, padding=1, bias=False)
            blocks[-1] = blocks[-1][:-1]
        self.features = nn.Sequential(*blocks)
        sizes = (CHANNELS[-1] * POOLED_POSITIONS, HIDDEN)
        self.hidden = nn.Sequential(*(nn.Sequential(nn.Linear(i, HIDDEN, bias=False), nn.BatchNorm1d(HIDDEN), nn.ReLU()) for i in sizes))
        self.head = nn.Linear(HIDDEN, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.hidden(self.features(x).flatten(1)))
        return logits


def alexnet_cifar(classes: int = 10, stem_stride: int = 1) -> AlexnetCifar:
    """A fresh network.

    Raises:
        ModelError: if `classes` is not positive, or `stem_stride` neither 1 nor 2.
    """
    if classes < 1:
        raise ModelError(f"`classes` of alexnet_cifar must be at least 1, got {classes}. Give the number of logits.")
    if stem_stride not in (1, 2):
        raise ModelError(f"`stem_stride` of alexnet_cifar must be 1 or 2, got {stem_stride}.")
    return AlexnetCifar(classes, stem_stride)
