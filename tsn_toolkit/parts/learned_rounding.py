"""Learned rounding (AdaRound, Nagel et al., ICML 2020) between the two codebook entries on either side of a weight.

For every own slot with value v between entries a <= v <= b, r = a + h * (b - a) with h in [0, 1], and h is learned to keep the layer's output:

    minimise   sum over rows of (r - v) gram (r - v)^T / E   +   lambda * mean of (1 - |2h - 1|^beta)

where gram = sum of x x^T over calibration inputs, E is what rounding every weight to its nearest entry costs, h = clip(1.2 * sigmoid(s) - 0.1, 0, 1),
and beta falls from 20 to 2, so that h is free at first and ends at 0 or 1.

Deviations from the paper: entries of a codebook in place of neighbours on an even grid; the loss is computed from the gram, which is the exact sum
over all calibration inputs, in place of batches; it is divided by E, so that one lambda suits layers of any size; the activation function behind the
layer is left out; slots that are not own keep their value. What was learned is finished by moving single slots to their other neighbour as long as
that lowers the error, since near 0 or 1 a gradient no longer sees what its own rounding costs. The same descent from the nearest entries is often as
good (on small layers better), so each row takes the better of the two ends.
"""

from __future__ import annotations

from math import cos, pi

import numpy as np
import torch
from numpy.typing import NDArray

LEARNING_RATE = 0.02
REGULARISATION = 1.0
"""lambda: weight of the pull to 0 or 1, where rounding to nearest costs 1."""
FREE_SHARE = 0.2
"""Share of the steps without that pull."""
BETAS = (20.0, 2.0)
_STRETCH, _SHIFT = 1.2, -0.1


def learned_round(
    values: NDArray[np.float64], own: NDArray[np.bool_], gram: NDArray[np.float64], codebook: NDArray[np.int8], *, steps: int
) -> NDArray[np.float64]:
    """Rounds the own slots of one weight to codebook entries; deterministic.

    Args:
        values: weights in units of q (rows, columns).
        own: slots to round, shape of `values`; the others come back as they are.
        gram: sum of x x^T over inputs x (columns,): (columns, columns).
        codebook: int8, ascending, at least one entry.
        steps: of the optimizer (Adam).

    Returns:
        float64 (rows, columns), entries at own slots.
    """
    lower, upper = _neighbours(values, codebook)
    wide = torch.from_numpy((upper - lower) * own)
    target, low = torch.from_numpy(values), torch.from_numpy(np.where(own, lower, values))
    share = torch.where(wide > 0, (target - low) / wide.clamp_min(1e-12), torch.zeros_like(wide)).clamp(0, 1)
    matrix = torch.from_numpy(gram)
    nearest = low + (share > 0.5) * wide - target
    cost = float(((nearest @ matrix) * nearest).sum())
    undecided = wide > 0
    if cost <= 0 or not bool(undecided.any()):
        return (low + (share > 0.5) * wide).numpy()
    position = torch.logit((share - _SHIFT) / _STRETCH).requires_grad_(True)
    optimizer = torch.optim.Adam([position], lr=LEARNING_RATE)
    for step in range(steps):
        h = _gate(position)
        error = low + h * wide - target
        loss = ((error @ matrix) * error).sum() / cost
        if step >= FREE_SHARE * steps:
            loss = loss + REGULARISATION * (1 - (2 * h - 1).abs().pow(_beta(step, steps)))[undecided].mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    starts = (_gate(position.detach()) > 0.5, share > 0.5)
    ends = [low + _flip(start, wide, low - target, matrix) * wide for start in starts]
    costs = [(((end - target) @ matrix) * (end - target)).sum(1) for end in ends]
    return torch.where((costs[0] < costs[1])[:, None], *ends).numpy()


def _flip(up: torch.Tensor, wide: torch.Tensor, low: torch.Tensor, gram: torch.Tensor) -> torch.Tensor:
    """Moves single slots to their other neighbour, in every row the one that helps most, as long as the row's error falls.

    Args:
        up: bool (rows, columns), the upper neighbour is taken.
        wide: distance of the neighbours; 0 where there is no choice.
        low: error of the lower neighbour.
        gram: (columns, columns).
    """
    up, rows = up.clone(), torch.arange(len(up))
    diagonal, pull = gram.diagonal(), (low + up * wide) @ gram
    for _ in range(2 * up.shape[1]):
        moves = torch.where(up, -wide, wide)
        gain = 2 * moves * pull + moves.square() * diagonal  # change of the row's squared error
        best, column = gain.min(1)
        helps = best < -1e-9 * diagonal.mean()
        if not bool(helps.any()):
            break
        chosen = rows[helps], column[helps]
        pull[helps] += moves[chosen][:, None] * gram[column[helps]]
        up[chosen] = ~up[chosen]
    return up


def _neighbours(values: NDArray[np.float64], codebook: NDArray[np.int8]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The largest entry at or below each value and the smallest above it; outside the codebook both are its end."""
    entries = np.unique(codebook).astype(np.float64)
    above = np.searchsorted(entries, values, side="right")
    return entries[np.maximum(above - 1, 0)], entries[np.minimum(above, len(entries) - 1)]


def _gate(position: torch.Tensor) -> torch.Tensor:
    """h of the module's docstring: a sigmoid stretched beyond [0, 1] and clipped, so that it reaches both ends."""
    return (_STRETCH * torch.sigmoid(position) + _SHIFT).clamp(0, 1)


def _beta(step: int, steps: int) -> float:
    """From the first of `BETAS` to the last, on a half cosine over the steps with regularisation."""
    done = (step / steps - FREE_SHARE) / (1 - FREE_SHARE)
    return BETAS[1] + 0.5 * (BETAS[0] - BETAS[1]) * (1 + cos(pi * done))
