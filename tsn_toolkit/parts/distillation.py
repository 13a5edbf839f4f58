"""Features of a frozen teacher as a second target: a pruned network is pulled back to what the whole one computes, which labels alone cannot say.

The loss is mean((f_student - f_teacher)^2) / mean(f_teacher^2) over the features that enter the classifier (FitNets, Romero et al., ICLR 2015, with
the penultimate layer as hint and no regressor, since the student's features are a subset of the teacher's).
"""

from __future__ import annotations

import torch
from torch import nn


class FeatureDistillation:
    """Adds the loss for the student's last forward pass.

    Use as a context: the hook on the student's head is removed at the end.
    """

    def __init__(self, teacher: nn.Module, student: nn.Module, head: str, *, columns: torch.Tensor, weight: float):
        """Both networks take the same inputs.

        Args:
            teacher: whole network, frozen here by evaluation mode and no gradients.
            student: network in training.
            head: module path of the classifier in both.
            columns: int64 (student features,), the teacher's feature that each student feature is.
            weight: factor of the loss, above 0.
        """
        self._teacher, self._student, self._head = teacher.eval(), student, head
        self._columns, self._weight = columns, weight
        self._seen: dict[str, torch.Tensor] = {}
        self._hooks = [
            model.get_submodule(head).register_forward_pre_hook(self._remember(name)) for name, model in (("teacher", teacher), ("student", student))
        ]

    def __enter__(self) -> FeatureDistillation:
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """The loss (scalar) for inputs x (n, ...) that the student has just seen."""
        with torch.no_grad():
            self._teacher(x)
        target = self._seen["teacher"].flatten(1).float()[:, self._columns]
        features = self._seen["student"].flatten(1).float()
        return self._weight * (features - target).square().mean() / target.square().mean().clamp_min(1e-12)

    def _remember(self, name: str):
        def hook(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            self._seen[name] = inputs[0]

        return hook
