"""A small vision transformer (Dosovitskiy et al., 2021) for 32x32 images.

Patches of 4x4 pixels, `depth` blocks of self-attention and a hidden layer of twice the width, each behind a layer norm and added to its input; a last
norm; mean over the patches; a linear head. Deviations from the paper: positions are fixed sines and cosines (as in Vaswani et al., 2017) and there
is no class token, so that every number that training changes is a layer's weight, a bias or a norm's vector; the hidden layer is narrower.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from tsn_toolkit.errors import ModelError

PATCH = 4
PATCHES = (32 // PATCH) ** 2
HIDDEN_TIMES = 2
LONGEST_WAVE = 10000.0
"""Of the positions, in units of 2 pi patches."""


class Attention(nn.Module):
    """Self-attention with `heads` heads, (n, length, width) -> (n, length, width)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.head_dim = heads, width // heads
        self.query, self.key, self.value, self.project = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        query, key, value = (layer(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for layer in (self.query, self.key, self.value))
        mixed = functional.scaled_dot_product_attention(query, key, value)  # (n, heads, length, head_dim)
        projected: torch.Tensor = self.project(mixed.transpose(1, 2).flatten(2))
        return projected


class Block(nn.Module):
    """Attention and a hidden layer, each added to its input, (n, length, width) -> the same."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.hidden, self.output = nn.Linear(width, HIDDEN_TIMES * width), nn.Linear(HIDDEN_TIMES * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.norm1(x))
        total: torch.Tensor = x + self.output(torch.relu(self.hidden(self.norm2(x))))
        return total


class SmallVit(nn.Module):
    """Images (n, 3, 32, 32) -> logits (n, classes)."""

    positions: torch.Tensor

    def __init__(self, width: int, depth: int, heads: int, classes: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, PATCH, stride=PATCH)
        self.register_buffer("positions", sine_positions(PATCHES, width), persistent=False)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.positions  # (n, 64, width)
        logits: torch.Tensor = self.head(self.norm(self.blocks(tokens)).mean(dim=1))
        return logits


def sine_positions(length: int, width: int) -> torch.Tensor:
    """float32 (length, width): sines in even columns, cosines in odd ones, from a wave of 2 pi positions to one of `LONGEST_WAVE` times that."""
    columns = torch.arange(width)
    rate = LONGEST_WAVE ** (-(columns - columns % 2).double() / width)
    angle = torch.arange(length).double()[:, None] * rate
    return torch.where(columns % 2 == 0, angle.sin(), angle.cos()).float()


def small_vit(width: int = 64, depth: int = 3, heads: int = 4, classes: int = 10) -> SmallVit:
    """A fresh network, 102 thousand weights at the defaults.

    Raises:
        ModelError: a number is not positive, or `width` is no multiple of `heads`.
    """
    if min(width, depth, heads, classes) < 1:
        raise ModelError(f"the numbers of small_vit must be at least 1, got width={width}, depth={depth}, heads={heads}, classes={classes}.")
    if width % heads:
        raise ModelError(f"`width` of small_vit must be a multiple of `heads`, got {width} and {heads}. Change one of them.")
    return SmallVit(width, depth, heads, classes)
