"""A running importance of weights for all tasks so far, and the penalty on leaving the newest revision's weights by it: what `ewc` and `esacl` share.

    penalty = strength / 2 * sum_i F_i (w_i - w*_i)^2,   F <- decay * F + F_t   (`parts/fisher_penalty.py`)

F_t is divided by its mean over all held weights (Schwarz et al., ICML 2018, normalise it too): a task that is learned well, or settles in a flat
place, has small gradients and would else be held the less.

w* are the weights of the newest revision, in its stored integers; F is float32 in the memory of a revision, and its bytes count. Only weights of
layers, their biases and the head are held. A stored norm has its statistics folded in and is stated anew with the next task's statistics, so that its
parameters do not compare between tasks.

strength * F_i is limited to 1 / the peak learning rate: there one step of the penalty alone brings a weight back, beyond it the steps would overshoot
and training would diverge.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import nn

from tsn_toolkit.filling import NORM_TYPES
from tsn_toolkit.parts.fisher_penalty import diagonal_fisher, drawn_labels, first_entries, quadratic_penalty
from tsn_toolkit.trainer.context import TaskContext
from tsn_toolkit.trainer.loop import training_sample
from tsn_toolkit.trainer.revision import Memory, RevisionOptions, SharedNetwork


class PenaltyOptions(RevisionOptions):
    """Options that every strategy has that holds earlier weights by a penalty.

    Attributes:
        strength: factor of the penalty; the mean weight of a task has importance 1.
        decay: what remains of the older tasks' importance after a task, 0..1.
        fisher_examples: training examples from which the importance of a task is estimated.
    """

    strength: float = Field(0.1, ge=0)
    decay: float = Field(1.0, ge=0, le=1)
    fisher_examples: int = Field(256, ge=1)


class WeightAnchor:
    """The penalty of one task, and the importance after it."""

    def __init__(self, network: SharedNetwork, context: TaskContext, options: PenaltyOptions):
        """The weights as they are now are w*.

        Args:
            network: at the beginning of the task.
            context: the task.
            options: of the strategy.
        """
        self._network, self._context, self._options = network, context, options
        device = context.settings.device
        limit = 1 / (options.strength * context.learning_rate) if options.strength else float("inf")
        self._fisher = {name: torch.from_numpy(values).to(device).clamp_max(limit) for name, values in network.memory.items()}
        self._parameters = {name: parameter for name, parameter in network.model.named_parameters() if name in self._fisher}
        self._anchors = {name: parameter.detach().clone() for name, parameter in self._parameters.items()}

    @property
    def holds(self) -> bool:
        """Whether there are earlier tasks."""
        return bool(self._fisher)

    def penalty(self) -> torch.Tensor:
        """The penalty now (scalar); only where there are earlier tasks."""
        return self._options.strength * quadratic_penalty(self._parameters, self._anchors, self._fisher)

    def losses_without(self, name: str) -> torch.Tensor:
        """F w^2, w as it is now and where it is: what earlier tasks lose if a weight becomes 0, to second order and up to one factor."""
        weight = self._parameters[name].detach()
        return self._fisher[name].to(weight.device) * weight.square()

    def remember(self, model: nn.Module) -> Memory:
        """The running importance after the task, by parameter name.

        Args:
            model: finished, in evaluation mode on the CPU.
        """
        data, visible = self._network.data, self._network.head.visible
        x = training_sample(data, self._options.fisher_examples)
        stride = max(1, len(data.train) // self._options.fisher_examples)
        with torch.no_grad():
            logits = visible(model(x), data.train.y[::stride][: len(x)])
        names = held_parameters(model)
        fresh = diagonal_fisher(model, names, x, drawn_labels(logits, self._context.generator()), visible)
        _divide_by_mean_(fresh)
        for name, values in self._network.memory.items():
            earlier = torch.from_numpy(values)
            first_entries(fresh[name], earlier).add_(self._options.decay * earlier)
        return {name: values.numpy() for name, values in fresh.items()}


def _divide_by_mean_(fisher: dict[str, torch.Tensor]) -> None:
    """In place, over all tensors together; one that is 0 everywhere stays."""
    mean = sum(float(values.sum()) for values in fisher.values()) / sum(values.numel() for values in fisher.values())
    for values in fisher.values():
        values /= mean or 1.0


def held_parameters(model: nn.Module) -> list[str]:
    """Names of the parameters that are held: those of no norm that are trained."""
    return [
        f"{path}.{name}" if path else name
        for path, module in model.named_modules()
        if not isinstance(module, NORM_TYPES)
        for name, parameter in module.named_parameters(recurse=False)
        if parameter.requires_grad
    ]
