"""`ewc`: elastic weight consolidation (Kirkpatrick et al., PNAS 2017), one running importance for all tasks (online, Schwarz et al., ICML 2018).

    loss = CE(f_w(x), y) + strength / 2 * sum_i F_i (w_i - w*_i)^2
    F <- decay * F + F_t,   F_t the diagonal Fisher information of the finished task (`parts/fisher_penalty.py`)

w* are the weights of the newest revision, in its stored integers; F is float32 in the memory of a revision, and its bytes count.

Deviations: only weights of layers, their biases and the head are held. A stored norm has its statistics folded in and is stated anew with the next
task's statistics, so that its parameters do not compare between tasks. Isolation `none`.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import nn

from tsn_toolkit.contracts import TaskResult
from tsn_toolkit.filling import NORM_TYPES
from tsn_toolkit.parts.fisher_penalty import diagonal_fisher, drawn_labels, quadratic_penalty
from tsn_toolkit.trainer.context import TaskContext
from tsn_toolkit.trainer.device import seeded
from tsn_toolkit.trainer.loop import training_sample
from tsn_toolkit.trainer.revision import SETTINGS, Memory, RevisionOptions, SharedNetwork, finish_revision, start_revision, train_shared_

__all__ = ["ISOLATION", "SETTINGS", "Config", "learn"]

ISOLATION = "none"


class Config(RevisionOptions):
    """Options of `strategy.options`.

    Attributes:
        strength: factor of the penalty.
        decay: what remains of the older tasks' importance after a task, 0..1.
        fisher_examples: training examples from which the importance of a task is estimated.
        setting, bit_width, calibration_batches, min_gain: as in `finetune`.
    """

    strength: float = Field(100.0, ge=0)
    decay: float = Field(1.0, ge=0, le=1)
    fisher_examples: int = Field(256, ge=1)


def learn(context: TaskContext, config: Config) -> TaskResult:
    """One task on top of the newest revision, held by the importance of its weights.

    Raises:
        RecipeError: as `start_revision`.
    """
    with seeded(context.seed):
        network = start_revision(context, config)
        model, device = network.model, context.settings.device
        fisher = {name: torch.from_numpy(values).to(device) for name, values in network.memory.items()}
        anchors = {name: parameter.detach().clone() for name, parameter in model.named_parameters() if name in fisher}

        def penalty(_: torch.Tensor) -> torch.Tensor:
            return config.strength * quadratic_penalty(dict(model.named_parameters()), anchors, fisher)

        train_shared_(network, context, config, name="training with a penalty", extra_loss=penalty if fisher else None)
        return finish_revision(network, context, config, strategy="ewc", remember=lambda finished: _importance(finished, network, context, config))


def _importance(model: nn.Module, network: SharedNetwork, context: TaskContext, config: Config) -> Memory:
    """The running importance after the task, by parameter name."""
    x = training_sample(network.data, config.fisher_examples)
    stride = max(1, len(network.data.train) // config.fisher_examples)
    visible = network.head.visible
    with torch.no_grad():
        logits = visible(model(x), network.data.train.y[::stride][: len(x)])
    names = held_parameters(model)
    fresh = diagonal_fisher(model, names, x, drawn_labels(logits, context.generator()), visible)
    for name, values in network.memory.items():
        fresh[name][: len(values)] += config.decay * torch.from_numpy(values)
    return {name: values.numpy() for name, values in fresh.items()}


def held_parameters(model: nn.Module) -> list[str]:
    """Names of the parameters that are held: those of no norm."""
    return [
        f"{path}.{name}" if path else name
        for path, module in model.named_modules()
        if not isinstance(module, NORM_TYPES)
        for name, _ in module.named_parameters(recurse=False)
    ]
