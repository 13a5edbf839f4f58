"""A multi-layer perceptron with batch norm, for images or flat features."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from tsn_toolkit.errors import ModelError


class Mlp(nn.Module):
    """Inputs (n, ...) with widths[0] values each -> logits (n, classes). Each hidden layer: linear, batch norm, ReLU."""

    def __init__(self, widths: Sequence[int], classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for features, units in zip(widths[:-1], widths[1:], strict=True):
            layers += [nn.Linear(features, units, bias=False), nn.BatchNorm1d(units), nn.ReLU()]
        self.hidden = nn.Sequential(*layers)
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.hidden(x.flatten(1)))
        return logits


def mlp(widths: Sequence[int] = (64, 256, 256), classes: int = 10) -> Mlp:
    """A fresh network.

    Args:
        widths: values of one input, then units of each hidden layer.
        classes: logits.

    Raises:
        ModelError: there is no hidden layer, or a number is not positive.
    """
    if len(widths) < 2:
        raise ModelError(f"`widths` of mlp names the inputs and at least one hidden layer, got {list(widths)}. Give two or more numbers.")
    if min(*widths, classes) < 1:
        raise ModelError(f"`widths` and `classes` of mlp must be at least 1, got {list(widths)} and {classes}. Give positive numbers.")
    return Mlp(widths, classes)
