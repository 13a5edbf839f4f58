"""What a network answers on labelled examples, and how far another network's answers are from these."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tsn_toolkit.errors import PlanError

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Answers:
    """What a network says of every example.

    Attributes:
        losses: float64 (n,).
        correct: float64 (n,), 1 where the largest logit is the label.
        log_probabilities: float64 (n, classes), log softmax of the logits.
    """

    losses: NDArray[np.float64]
    correct: NDArray[np.float64]
    log_probabilities: NDArray[np.float64]


def answers_of(model: nn.Module, batches: Sequence[tuple[torch.Tensor, torch.Tensor]], loss: Loss) -> Answers:
    """One forward pass, with every module in the mode that it is in.

    Args:
        model: inputs -> logits (n, classes).
        batches: inputs (n, ...), labels int64 (n,).
        loss: (logits, labels) -> one loss per example (n,).

    Raises:
        PlanError: the loss does not give one number per example, or one is not finite.
    """
    with torch.no_grad():
        outputs = [model(x) for x, _ in batches]
    labels = [y for _, y in batches]
    losses = [loss(logits, y) for logits, y in zip(outputs, labels, strict=True)]
    for values, y in zip(losses, labels, strict=True):
        if values.shape != y.shape or not torch.isfinite(values).all():
            raise PlanError(
                f"`loss` must give one finite number per example, got shape {tuple(values.shape)} for {len(y)} examples, finite: "
                f"{bool(torch.isfinite(values).all())}. Use a loss with reduction none, and check the model on the validation data."
            )
    logits = torch.cat(outputs)
    correct = (logits.argmax(1) == torch.cat(labels)).double()
    return Answers(torch.cat(losses).double().cpu().numpy(), correct.cpu().numpy(), logits.double().log_softmax(1).cpu().numpy())


def divergences(before: Answers, after: Answers) -> NDArray[np.float64]:
    """Kullback-Leibler divergence of every example's class probabilities after from those before, in nats, at least 0, float64 (n,).

    It is the increase of the cross entropy that is to be expected where the probabilities before are true, without what the labels of a few examples
    add by chance: an option cannot look better than no compression.
    """
    summed: NDArray[np.float64] = (np.exp(before.log_probabilities) * (before.log_probabilities - after.log_probabilities)).sum(axis=1)
    return np.maximum(summed, 0.0)
