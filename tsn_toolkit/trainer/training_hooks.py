"""What a strategy may add to the one training loop, as one value; a loop without hooks is plain supervised training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

ExtraLoss = Callable[[torch.Tensor], torch.Tensor]
"""From the inputs (n, ...) of a batch to a scalar that is added to its loss."""

Visible = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""From logits (n, classes) and labels (n,) to the logits with those at -inf that do not compete for the example."""

Gradients = Callable[[torch.Tensor, torch.Tensor], tuple[float, torch.Tensor]]
"""From inputs (n, ...) and labels (n,) of a batch to its loss and its logits (n, classes); leaves gradients behind."""


class Examples(Protocol):
    """Which training examples an epoch takes."""

    def chosen(self, epoch: int) -> torch.Tensor:
        """Positions in the training split, int64 (n,), n at least 1; called once before each epoch."""

    def observe(self, positions: torch.Tensor, correct: torch.Tensor) -> None:
        """What the network got right in a training batch: int64 (n,), bool (n,)."""


@dataclass(frozen=True)
class TrainingHooks:
    """Where a strategy reaches into the loop; None leaves that place plain. Steps and epochs are numbered from 0.

    Attributes:
        extra_loss: called after each forward pass; what it returns is added to the loss.
        visible: which logits compete for an example, in training and in evaluation; None: all.
        examples: which training examples an epoch takes; None: all.
        gradients: makes a batch's gradients in place of the one plain pass; label weight, extra loss and competing logits are then its own affair.
        make_optimizer: of the parameter groups, in place of the settings' optimizer.
        before_epoch: called with the epoch; gradients are those of the last step.
        before_step: called with the step when gradients are there and the optimizer has not moved.
        after_step: called with the step when the optimizer has moved.
    """

    extra_loss: ExtraLoss | None = None
    visible: Visible | None = None
    examples: Examples | None = None
    gradients: Gradients | None = None
    make_optimizer: Callable[[list[dict]], torch.optim.Optimizer] | None = None
    before_epoch: Callable[[int], None] | None = None
    before_step: Callable[[int], None] | None = None
    after_step: Callable[[int], None] | None = None


PLAIN = TrainingHooks()
"""No hooks at all."""
