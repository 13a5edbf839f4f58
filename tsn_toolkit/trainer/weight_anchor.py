"""A running importance of weights for all tasks so far, and the penalty on leaving the newest revision's weights by it: what `ewc` and `esacl` share.

    penalty = strength / 2 * sum_i F_i (w_i - w*_i)^2,   F <- decay * F + F_t   (`parts/fisher_penalty.py`)

F_t is divided by its mean over all held weights (Schwarz et al., ICML 2018, normalise it too): a task that is learned well, or settles in a flat place,
has small gradients and would else be held the less.

w* are the weights of the newest revision, in its stored integers; F is float32 in the memory of a revision, and its bytes count. Only weights of
layers, their biases and the head are held. A stored norm has its statistics folded in and is stated anew with the next task's statistics, so that its
parameters do not compare between tasks.

strength * F_i is limited to 1 / the peak learning rate: there one step of the penalty alone brings a weight back, beyond it the steps would overshoot
and training would diverge.
"""

from __future__ import annotations

import torch
from torch import nn

from tsn_toolkit.filling import NORM_TYPES
from tsn_toolkit.parts.fisher_penalty import diagonal_fisher, drawn_labels, quadratic_penalty
from tsn_toolkit.trainer.context import TaskContext
from tsn_toolkit.trainer.loop import training_sample
from tsn_toolkit.trainer.revision import Memory, SharedNetwork


class WeightAnchor:
    """The penalty of one task, and the importance after it."""

    def __init__(self, network: SharedNetwork, context: TaskContext, *, strength: float, decay: float, examples: int):
        """The weights as they are now are w*.

        Args:
            network: at the beginning of the task.
            context: the task.
            strength: factor of the penalty, per mean importance.
            decay: what remains of the older tasks' importance after the task, 0..1.
            examples: training examples from which the importance of the task is estimated.
        """
        self._network, self._context = network, context
        self._strength, self._decay, self._examples = strength, decay, examples
        device = context.settings.device
        limit = 1 / (strength * context.learning_rate) if strength else float("inf")
        self._fisher = {name: torch.from_numpy(values).to(device).clamp_max(limit) for name, values in network.memory.items()}
        self._parameters = {name: parameter for name, parameter in network.model.named_parameters() if name in self._fisher}
        self._anchors = {name: parameter.detach().clone() for name, parameter in self._parameters.items()}

    @property
    def holds(self) -> bool:
        """Whether there are earlier tasks."""
        return bool(self._fisher)

    def penalty(self) -> torch.Tensor:
        """The penalty now (scalar); only where there are earlier tasks."""
        return self._strength * quadratic_penalty(self._parameters, self._anchors, self._fisher)

    def losses_without(self, name: str) -> torch.Tensor:
        """What earlier tasks lose, to second order and up to one factor, if a weight of the parameter becomes 0: F w^2, w as it is now, on the CPU."""
        return (self._fisher[name] * self._parameters[name].detach().square()).cpu()

    def remember(self, model: nn.Module) -> Memory:
        """The running importance after the task, by parameter name.

        Args:
            model: finished, in evaluation mode on the CPU.
        """
        data, visible = self._network.data, self._network.head.visible
        x = training_sample(data, self._examples)
        stride = max(1, len(data.train) // self._examples)
        with torch.no_grad():
            logits = visible(model(x), data.train.y[::stride][: len(x)])
        names = held_parameters(model)
        fresh = diagonal_fisher(model, names, x, drawn_labels(logits, self._context.generator()), visible)
        _divide_by_mean_(fresh)
        for name, values in self._network.memory.items():
            fresh[name][: len(values)] += self._decay * torch.from_numpy(values)
        return {name: values.numpy() for name, values in fresh.items()}


def _divide_by_mean_(fisher: dict[str, torch.Tensor]) -> None:
    """In place, over all tensors together; one that is 0 everywhere stays."""
    mean = sum(float(values.sum()) for values in fisher.values()) / sum(values.numel() for values in fisher.values())
    for values in fisher.values():
        values /= mean or 1.0


def held_parameters(model: nn.Module) -> list[str]:
    """Names of the parameters that are held: those of no norm."""
    return [
        f"{path}.{name}" if path else name
        for path, module in model.named_modules()
        if not isinstance(module, NORM_TYPES)
        for name, _ in module.named_parameters(recurse=False)
    ]
