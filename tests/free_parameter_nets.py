"""Tiny networks with free parameters: a vision transformer as timm builds them, a text model with an embedding, a convolutional net with factors."""

import torch
from torch import nn
from torch.nn import functional

PATCH, TOKENS = 2, 16
"""Of images of 8 x 8 pixels."""


class Attention(nn.Module):
    """Self-attention, (n, length, width) -> the same."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads, self.head_dim = heads, width // heads
        self.query, self.key, self.value, self.project = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x):
        query, key, value = (layer(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for layer in (self.query, self.key, self.value))
        mixed = functional.scaled_dot_product_attention(query, key, value)
        return self.project(mixed.transpose(1, 2).flatten(2))


class LayerScale(nn.Module):
    """A factor per channel, as in CaiT."""

    def __init__(self, width, start):
        super().__init__()
        self.gamma = nn.Parameter(start * torch.ones(width))

    def forward(self, x):
        return x * self.gamma


class Block(nn.Module):
    """Attention and a hidden layer, each scaled and added to its input."""

    def __init__(self, width, heads):
        super().__init__()
        self.norm1, self.attention, self.scale1 = nn.LayerNorm(width), Attention(width, heads), LayerScale(width, 0.5)
        self.norm2, self.scale2 = nn.LayerNorm(width), LayerScale(width, 0.5)
        self.hidden, self.output = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x):
        x = x + self.scale1(self.attention(self.norm1(x)))
        return x + self.scale2(self.output(functional.relu(self.hidden(self.norm2(x)))))


class TinyVit(nn.Module):
    """Images (n, 1, 8, 8) -> logits (n, classes); class token, learned positions, layer scale."""

    def __init__(self, width=16, depth=1, heads=2, classes=6):
        super().__init__()
        self.patches = nn.Conv2d(1, width, PATCH, stride=PATCH)
        self.cls_token = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, TOKENS + 1, width))
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x):
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), tokens], dim=1) + self.pos_embed
        return self.head(self.norm(self.blocks(tokens))[:, 0])


def tiny_vit(width=16, depth=1, heads=2, classes=6):
    return TinyVit(width, depth, heads, classes)


class TokenNet(nn.Module):
    """Word numbers (n, length) -> logits (n, classes)."""

    def __init__(self, words=40, length=12, width=8, filters=12, classes=6):
        super().__init__()
        self.words = nn.Embedding(words, width)
        self.positions = nn.Parameter(0.1 * torch.randn(length, width))
        self.conv, self.pool = nn.Conv1d(width, filters, 3, padding=1), nn.MaxPool1d(length)
        self.head = nn.Linear(filters, classes)

    def forward(self, x):
        vectors = (self.words(x.long()) + self.positions).transpose(1, 2)
        return self.head(self.pool(functional.relu(self.conv(vectors))).flatten(1))


def token_net(words=40, length=12, width=8, filters=12, classes=6):
    return TokenNet(words, length, width, filters, classes)


class ScaledCnn(nn.Module):
    """Images (n, 1, 8, 8) -> logits; a learned offset of the input's map and a factor per channel between two convolutions."""

    def __init__(self, width=8, classes=6):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width)
        self.offset = nn.Parameter(0.1 * torch.randn(1, width, 8, 8))
        self.gamma = nn.Parameter(torch.linspace(0.5, 1.5, width).view(width, 1, 1))
        self.conv2, self.norm2 = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x):
        x = functional.relu(self.norm1(self.conv1(x))) + self.offset
        x = functional.relu(self.norm2(self.conv2(x * self.gamma)))
        return self.head(x.mean((2, 3)))


def scaled_cnn(width=8, classes=6):
    return ScaledCnn(width, classes)
