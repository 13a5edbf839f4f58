"""Gradients of a two-pass step that looks for weights where pruning does little harm (sharpness-aware in the direction of pruning).

    g    = gradient of the mean loss of the batch at w
    eps  = `pruning_direction` of g: norm rho, only at the weights that would be pruned first (`importance/sdp.py`)
    B+   = the examples of the batch whose loss rises most from w to w + eps
    what is left behind: the gradient of the mean loss of B+ at w + eps, plus that of the penalty at w; w is as it was

With all weights as candidates and all examples it is the step of SAM (Foret et al., ICLR 2021); choosing B+ is ESAM's (Du et al., ICLR 2022).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from tsn_toolkit.importance.sdp import largest_rises, pruning_direction

Losses = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
"""From inputs and labels to the loss of each example (n,) and the logits (n, classes)."""


def sharpness_gradients(
    x: torch.Tensor,
    y: torch.Tensor,
    *,
    losses: Losses,
    weights: Mapping[str, torch.Tensor],
    rho: float,
    candidates: float,
    examples: float,
    penalty: Callable[[], torch.Tensor] | None = None,
) -> tuple[float, torch.Tensor]:
    """Leaves the step's gradients in all parameters that `losses` depends on, which must have none; returns the loss at w and the logits there.

    Args:
        x: inputs (n, ...).
        y: labels (n,).
        losses: one forward pass.
        weights: name -> parameter that may be pruned.
        rho: norm of eps.
        candidates: fraction of the weights that would be pruned first.
        examples: fraction of the batch in B+; 1 takes all.
        penalty: a loss of the weights alone; None: none.
    """
    before, logits = losses(x, y)
    gradients = dict(zip(weights, torch.autograd.grad(before.mean(), list(weights.values())), strict=True))
    original = {name: weight.detach().clone() for name, weight in weights.items()}
    step = pruning_direction(original, gradients, candidates=candidates, rho=rho)
    with torch.no_grad():
        for name, weight in weights.items():
            weight.add_(step[name])
    after, _ = losses(x, y)
    chosen = largest_rises(before.detach(), after.detach(), examples)
    after[chosen].mean().backward()
    with torch.no_grad():
        for name, weight in weights.items():
            weight.copy_(original[name])
    if penalty is not None:
        penalty().backward()
    return float(before.detach().mean()), logits.detach()
