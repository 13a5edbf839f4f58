"""Gradients of a step that looks where pruning would lead (sharpness-aware in the direction of pruning), and of examples that it would hurt.

    g    = gradient of the mean loss of the batch at w
    eps  = g at the weights that would be pruned next, scaled to norm rho (`parts/pruning_candidates.py`)
    B+   = the examples of the batch whose loss rises most from w to w + eps
    what is left behind: the gradient of the mean loss of B+ at w + eps, plus that of the penalty at w; w is as it was

With all weights as candidates and all examples it is the step of SAM (Foret et al., ICLR 2021); choosing B+, which alone takes the last pass, is
ESAM's (Du et al., ICLR 2022). The choice can do without the sharp step: then the last pass is at w.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from tsn_toolkit.importance.sdp import largest_rises
from tsn_toolkit.parts.pruning_candidates import PruningCandidates

Losses = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
"""From inputs and labels to the loss of each example (n,) and the logits (n, classes)."""


def sharpness_gradients(
    x: torch.Tensor,
    y: torch.Tensor,
    *,
    losses: Losses,
    candidates: PruningCandidates,
    rho: float,
    examples: float,
    sharp: bool = True,
    penalty: Callable[[], torch.Tensor] | None = None,
) -> tuple[float, torch.Tensor]:
    """Leaves the step's gradients in all parameters that `losses` depends on, which must have none; returns the loss at w and the logits there.

    Args:
        x: inputs (n, ...).
        y: labels (n,).
        losses: one forward pass.
        candidates: the weights that would be pruned next.
        rho: norm of eps.
        examples: fraction of the batch in B+, two examples at least, which norms over a batch need; 1 takes all.
        sharp: whether the last pass is at w + eps; otherwise at w.
        penalty: a loss of the weights alone; None: none.
    """
    before, logits = losses(x, y)
    weights = candidates.weights
    gradients = dict(zip(weights, torch.autograd.grad(before.mean(), list(weights.values())), strict=True))
    step = candidates.direction(gradients, examples=len(x), rho=rho)
    original = {name: weight.detach().clone() for name, weight in weights.items()}
    with torch.no_grad():
        for name, weight in weights.items():
            weight.add_(step[name])
        if examples < 1:
            chosen = largest_rises(before, losses(x, y)[0], max(examples, min(1.0, 2 / len(x))))
            x, y = x[chosen], y[chosen]
    if not sharp:
        _put_back_(candidates, original)
    losses(x, y)[0].mean().backward()
    if sharp:
        _put_back_(candidates, original)
    if penalty is not None:
        penalty().backward()
    return float(before.detach().mean()), logits.detach()


@torch.no_grad()
def _put_back_(candidates: PruningCandidates, original: dict[str, torch.Tensor]) -> None:
    for name, weight in candidates.weights.items():
        weight.copy_(original[name])
