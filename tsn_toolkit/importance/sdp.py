"""Sharpness-informed directional pruning (SDP), one-shot. A reconstruction: EsaCL (Ren and Honavar, SDM 2024, arXiv 2401.05667) has no public code
and its text was not to hand. This follows its abstract, sharpness-aware minimisation (Foret et al., 2021) and ESAM's examples (Du et al., 2022).

    candidates   of all weights but those that are 0, the fraction `CANDIDATES` with the smallest |g w|,   g = dL/dw on all examples
    eps          = RHO * g_c / ||g_c||,   g_c = g at the candidates, else 0:  the worst step of size RHO in the direction of pruning
    examples     of every batch the fraction `EXAMPLES` whose loss rises most from w to w + eps (intelligent data selection, IDS)
    s_w          = |g' w| + 1/2 h' w^2,   g' and h' the gradient and the diagonal Fisher information at w + eps on these examples
    s_u          = sum over producers, over weights w of output u: s_w

A weight in a flat direction scores low: neither slope nor curvature shows even where pruning would push. h' is the mean over batches of n times the
squared mean gradient, as in `fisher`. The constants are ours, not the paper's.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tsn_toolkit.contracts import ModelGraph
from tsn_toolkit.importance._per_unit import producer_sums, weights_of_producers
from tsn_toolkit.importance._per_weight import Batches, Loss, as_scores, batch_gradients, layer_weights, quiet_copy, require_batches

CANDIDATES = 0.5
RHO = 0.05
EXAMPLES = 0.5


def score(model: nn.Module, graph: ModelGraph, batches: Batches, loss: Loss) -> dict[str, NDArray[np.float64]]:
    """Saliency per unit, with the model in eval mode; arguments and errors as in `taylor`."""
    require_batches(batches, "sdp")
    quiet = quiet_copy(model)
    return producer_sums(quiet, graph, _saliencies(quiet, weights_of_producers(quiet, graph), batches, loss))


def weight_scores(model: nn.Module, graph: ModelGraph, batches: Batches, loss: Loss) -> dict[str, NDArray[np.float64]]:
    """Saliency per weight, with the model in eval mode; arguments and errors as in `taylor`."""
    require_batches(batches, "sdp")
    quiet = quiet_copy(model)
    return {name: as_scores(values) for name, values in _saliencies(quiet, layer_weights(quiet, graph), batches, loss).items()}


def pruning_direction(
    weights: Mapping[str, torch.Tensor], gradients: Mapping[str, torch.Tensor], *, candidates: float, rho: float
) -> dict[str, torch.Tensor]:
    """eps by name: the gradient at the weights with the smallest |g w| of all layers together, scaled to norm `rho`; 0 elsewhere.

    Args:
        weights: name -> weight; one that is 0 is pruned already and no candidate.
        gradients: name -> its gradient.
        candidates: fraction of the weights that are not 0 that are candidates for pruning.
        rho: Euclidean norm of the result; it is 0 where all gradients of candidates are.
    """
    left = {name: weight.detach() != 0 for name, weight in weights.items()}
    sizes = {name: (gradients[name] * weight.detach()).abs() for name, weight in weights.items()}
    everything = torch.cat([sizes[name][left[name]] for name in weights])
    if len(everything):
        border = everything.kthvalue(max(1, round(candidates * len(everything)))).values
        left = {name: left[name] & (sizes[name] <= border) for name in weights}
    return scaled_at(left, gradients, rho)


def scaled_at(chosen: Mapping[str, torch.Tensor], gradients: Mapping[str, torch.Tensor], rho: float) -> dict[str, torch.Tensor]:
    """The gradients at chosen places, 0 elsewhere, all together scaled to norm `rho`, or 0 where they are.

    Args:
        chosen: name -> bool, shape of the gradient.
        gradients: name -> gradient.
        rho: Euclidean norm.
    """
    kept = {name: torch.where(places, gradients[name], torch.zeros_like(gradients[name])) for name, places in chosen.items()}
    norm = torch.stack([gradient.square().sum() for gradient in kept.values()]).sum().sqrt()
    return {name: gradient * (rho / norm.clamp_min(torch.finfo(norm.dtype).tiny)) for name, gradient in kept.items()}


def largest_rises(before: torch.Tensor, after: torch.Tensor, fraction: float) -> torch.Tensor:
    """Positions of the examples whose loss rises most, ascending int64: `fraction` of them, one at least.

    Args:
        before, after: loss of each example, (n,), n at least 1.
        fraction: in (0, 1].
    """
    count = max(1, round(fraction * len(before)))
    return (after - before).argsort(descending=True, stable=True)[:count].sort().values


def _saliencies(quiet: nn.Module, weights: dict[str, torch.Tensor], batches: Batches, loss: Loss) -> dict[str, torch.Tensor]:
    """s_w by the names of `weights`; the weights of `quiet` end where they were moved to."""
    mean = {name: torch.zeros_like(weight, dtype=torch.float64) for name, weight in weights.items()}
    for _, gradients in batch_gradients(quiet, weights, batches, loss):
        for name, gradient in gradients.items():
            mean[name] += gradient / len(batches)
    original = {name: weight.detach().double().clone() for name, weight in weights.items()}
    step = pruning_direction(original, mean, candidates=CANDIDATES, rho=RHO)
    before = [_losses(quiet, x, y, loss) for x, y in batches]
    with torch.no_grad():
        for name, weight in weights.items():
            weight.add_(step[name].to(weight.dtype))
    after = [_losses(quiet, x, y, loss) for x, y in batches]
    chosen = []
    for (x, y), low, high in zip(batches, before, after, strict=True):
        kept = largest_rises(low, high, EXAMPLES).to(x.device)
        chosen.append((x[kept], y[kept]))
    slope = {name: torch.zeros_like(values) for name, values in original.items()}
    curvature = {name: torch.zeros_like(values) for name, values in original.items()}
    for count, gradients in batch_gradients(quiet, weights, chosen, loss):
        for name, gradient in gradients.items():
            slope[name] += gradient / len(chosen)
            curvature[name] += count * gradient**2 / len(chosen)
    return {name: (slope[name] * values).abs() + 0.5 * curvature[name] * values**2 for name, values in original.items()}


@torch.no_grad()
def _losses(quiet: nn.Module, x: torch.Tensor, y: torch.Tensor, loss: Loss) -> torch.Tensor:
    """Loss of each example of a batch, float64 (n,)."""
    logits = quiet(x)
    return torch.stack([loss(logits[i : i + 1], y[i : i + 1]).double() for i in range(len(x))])
