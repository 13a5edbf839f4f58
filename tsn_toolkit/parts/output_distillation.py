"""The answers of a frozen teacher as soft labels for the logits that it had (knowledge distillation, Hinton et al., 2015, as in LwF).

    loss = - sum over groups of logits  mean over examples  sum_c softmax(z_teacher / T)_c log softmax(z_student / T)_c

A group holds the logits that compete with one another: those of one task, or all.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


def soft_cross_entropy(student: torch.Tensor, teacher: torch.Tensor, groups: Sequence[Sequence[int]], temperature: float) -> torch.Tensor:
    """The loss (scalar).

    Args:
        student: logits (n, k).
        teacher: logits (n, m); `groups` name columns below m.
        groups: logits that compete with one another.
        temperature: T, above 0.
    """
    loss = student.new_zeros(())
    for columns in groups:
        wanted = (teacher[:, list(columns)] / temperature).softmax(1)
        loss = loss - (wanted * (student[:, list(columns)] / temperature).log_softmax(1)).sum(1).mean()
    return loss


class OutputDistillation:
    """Adds the loss for the student's last forward pass; use as a context, which removes the hook at its end."""

    def __init__(self, teacher: nn.Module, student: nn.Module, groups: Sequence[Sequence[int]], *, temperature: float, weight: float):
        """Both networks take the same inputs.

        Args:
            teacher: frozen here by evaluation mode and no gradients.
            student: network in training, with at least the teacher's logits.
            groups: logits of the teacher that compete with one another.
            temperature: of both softmaxes, above 0.
            weight: factor of the loss.
        """
        self._teacher, self._groups = teacher.eval(), groups
        self._temperature, self._weight = temperature, weight
        self._hook = student.register_forward_hook(self._remember)

    def __enter__(self) -> OutputDistillation:
        return self

    def __exit__(self, *_: object) -> None:
        self._hook.remove()

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """The loss (scalar) for inputs x (n, ...) that the student has just seen."""
        with torch.no_grad():
            teacher = self._teacher(x).float()
        return self._weight * soft_cross_entropy(self._seen.float(), teacher, self._groups, self._temperature)

    def _remember(self, _: nn.Module, __: tuple[torch.Tensor, ...], logits: torch.Tensor) -> None:
        self._seen = logits
