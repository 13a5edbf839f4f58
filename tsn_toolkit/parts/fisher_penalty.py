"""The diagonal of the Fisher information, and the quadratic penalty that it weighs (EWC).

F_i = mean over examples of (d log p(y | x) / d w_i)^2,   y drawn from the network's own prediction
penalty(w) = 1/2 sum_i F_i (w_i - w*_i)^2
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn
from torch.nn import functional


def diagonal_fisher(
    model: nn.Module, names: list[str], x: torch.Tensor, rows: torch.Tensor, visible: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
) -> dict[str, torch.Tensor]:
    """F by parameter name, float32, shapes of the parameters; one backward pass per example.

    Args:
        model: in evaluation mode.
        names: parameters that are asked for.
        x: normalised inputs (n, ...), n at least 1.
        rows: int64 (n,), the logit whose log probability is differentiated.
        visible: which logits compete for an example.
    """
    parameters = dict(model.named_parameters())
    wanted = [parameters[name] for name in names]
    total = [torch.zeros_like(parameter) for parameter in wanted]
    for example, row in zip(x.split(1), rows.split(1), strict=True):
        loss = functional.cross_entropy(visible(model(example), row), row)
        for square, gradient in zip(total, torch.autograd.grad(loss, wanted, allow_unused=True, materialize_grads=True), strict=True):
            square += gradient.square()
    return {name: square / len(x) for name, square in zip(names, total, strict=True)}


def drawn_labels(logits: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """One logit per example, drawn from the prediction: int64 (n,). Logits (n, k) may be -inf."""
    return torch.multinomial(logits.softmax(1), 1, generator=generator).squeeze(1)


def first_entries(tensor: torch.Tensor, earlier: torch.Tensor) -> torch.Tensor:
    """The part of a tensor that there was before it grew at its end; a view."""
    return tensor[: len(earlier)] if earlier.dim() else tensor


def quadratic_penalty(
    parameters: Mapping[str, torch.Tensor], anchors: Mapping[str, torch.Tensor], fisher: Mapping[str, torch.Tensor]
) -> torch.Tensor:
    """1/2 sum F (w - w*)^2 (scalar) over the names of `fisher`; a parameter may have grown at its end, where nothing is penalised."""
    terms = [
        (weight * (first_entries(parameters[name], weight) - first_entries(anchors[name], weight)).square()).sum() for name, weight in fisher.items()
    ]
    return 0.5 * torch.stack(terms).sum()
