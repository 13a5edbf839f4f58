"""Brevitas' roundings whose gradient passes as if they were not there (Bengio, Leonard and Courville, arXiv 1308.3432).

Brevitas is imported when used: importing it loads torch's compiler, which sets an environment variable.
"""

from __future__ import annotations

import torch


def sign(values: torch.Tensor) -> torch.Tensor:
    """-1 below 0, else 1; shape of `values`."""
    from brevitas.function import binary_sign_ste

    rounded: torch.Tensor = binary_sign_ste(values)
    return rounded


def rounded_within(values: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    """The nearest integers in [low, high] (shapes that fit `values`); the gradient passes also where they are clamped."""
    from brevitas.function import round_ste, tensor_clamp_ste

    rounded: torch.Tensor = tensor_clamp_ste(round_ste(values), low, high)
    return rounded
