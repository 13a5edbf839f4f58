"""A classifier that trains through its own rounding: of few bits, one rounded only after training loses what the task learned.

Down a chain of tasks with the same classes that adds up, since each head starts from its parent's.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tsn_toolkit.numerics.vectors import round_vector
from tsn_toolkit.parts.trunk import largest_code, least_error_scale
from tsn_toolkit.parts.wrapping import attach_, wrappers_of
from tsn_toolkit.quantizers.straight_through import rounded_within
from tsn_toolkit.vocabulary import VectorPrecision


class HeadRounding(nn.Module):
    """weight = scale * round(latent / scale), straight through; one scale per class, fitted by `fit_scale_` and fixed in between.

    Args:
        weight: (classes, features, ...), of the classifier.
        bit_width: bits per code, 2..8.
        max_code: largest |code|, where that is less than the bits allow.
        precision: of the scales, as they will be stored.
    """

    scale: torch.Tensor
    most: torch.Tensor

    def __init__(self, weight: torch.Tensor, *, bit_width: int, max_code: int, precision: VectorPrecision) -> None:
        super().__init__()
        self.precision = precision
        self.register_buffer("most", torch.tensor(float(largest_code(bit_width, max_code)), device=weight.device))
        self.register_buffer("scale", torch.ones(len(weight), *[1] * (weight.dim() - 1), device=weight.device))
        self.fit_scale_(weight)

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        """The weights that are stored."""
        return self.scale * rounded_within(latent / self.scale, -self.most, self.most)

    def right_inverse(self, weight: torch.Tensor) -> torch.Tensor:
        """Training starts from the weights as they are."""
        return weight

    def fit_scale_(self, latent: torch.Tensor) -> None:
        """Takes the scales with which the codes come closest to the latent weights, in place."""
        rows = latent.detach().float().flatten(1).cpu().numpy()
        scale = round_vector(least_error_scale(rows, int(self.most)), self.precision)
        self.scale.copy_(torch.from_numpy(scale).view_as(self.scale))


def wrap_head_(model: nn.Module, head: str, *, bit_width: int, max_code: int, precision: VectorPrecision) -> None:
    """The classifier trains through its rounding from now on, in place; see `HeadRounding`."""
    module = model.get_submodule(head)
    attach_(module, HeadRounding(module.weight, bit_width=bit_width, max_code=max_code, precision=precision))


def refit_heads_(model: nn.Module) -> None:
    """Fits the scales of classifiers that train through their rounding to what the weights are now, in place."""
    for _, rounding, latent in wrappers_of(model, HeadRounding):
        rounding.fit_scale_(latent)


def trained_scale(model: nn.Module, head: str) -> NDArray[np.float32] | None:
    """The scales (classes,) that a classifier was trained with; None: not through its rounding."""
    found = [rounding.scale for name, rounding, _ in wrappers_of(model, HeadRounding) if name == head]
    return found[0].flatten().cpu().numpy() if found else None
