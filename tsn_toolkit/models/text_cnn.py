"""A convolutional sentence classifier (Kim, Convolutional Neural Networks for Sentence Classification, 2014) over one-hot words.

`embedding`, a convolution of kernel 1, looks up a vector per word; one convolution per kernel size, each with a batch norm and ReLU; the maximum over
all positions; concatenation; a linear head. Deviations from the paper: words are learned from scratch instead of pretrained, a batch norm in place
of dropout, fewer filters, zero padding so that all kernels have the sentence's positions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from tsn_toolkit.errors import ModelError


class TextCnn(nn.Module):
    """One-hot words (n, vocabulary, length) -> logits (n, classes)."""

    def __init__(self, vocabulary: int, length: int, dimensions: int, filters: int, kernels: Sequence[int], classes: int) -> None:
        super().__init__()
        self.embedding = nn.Conv1d(vocabulary, dimensions, 1, bias=False)
        self.branches = nn.ModuleList(
            nn.Sequential(
                nn.Conv1d(dimensions, filters, kernel, padding=kernel // 2, bias=False), nn.BatchNorm1d(filters), nn.ReLU(), nn.MaxPool1d(length)
            )
            for kernel in kernels
        )
        self.head = nn.Linear(filters * len(kernels), classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        words = self.embedding(x)
        logits: torch.Tensor = self.head(torch.cat([branch(words) for branch in self.branches], dim=1).flatten(1))
        return logits


def text_cnn(
    vocabulary: int = 512, length: int = 24, dimensions: int = 32, filters: int = 32, kernels: Sequence[int] = (1, 3, 5), classes: int = 6
) -> TextCnn:
    """A fresh network, 26 thousand weights at the defaults.

    Args:
        vocabulary: words, as the data source has them.
        length: positions of a sentence.
        dimensions: of a word's vector.
        filters: of each kernel size.
        kernels: odd kernel sizes, at least one.
        classes: logits.

    Raises:
        ModelError: a number is not positive, or a kernel is even, so that it has no middle.
    """
    if min(vocabulary, length, dimensions, filters, classes) < 1:
        raise ModelError(
            "the numbers of text_cnn must be at least 1, got "
            f"vocabulary={vocabulary}, length={length}, dimensions={dimensions}, filters={filters}, classes={classes}."
        )
    if not len(kernels) or any(kernel < 1 or kernel % 2 == 0 for kernel in kernels):
        raise ModelError(f"`kernels` of text_cnn are odd sizes, at least one, got {list(kernels)}. Give for example (1, 3, 5).")
    return TextCnn(vocabulary, length, dimensions, filters, kernels, classes)
