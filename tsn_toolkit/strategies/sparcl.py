"""`sparcl`: sparse continual learning on replay (Wang et al., "SparCL: sparse continual learning on the edge", NeurIPS 2022, arXiv 2209.09476).

Three parts, each of which can be switched off, beside ER, DER or DER++:

- task-aware dynamic masking, `sparsity` > 0: weights are zero in training and in the store (`parts/dynamic_mask.py`)
- dynamic data removal, `remove` > 0: easy examples leave the training set (`parts/data_removal.py`)
- dynamic gradient masking, `keep_gradients` < 1: few gradients are used (`parts/gradient_mask.py`)

With all three off it is the replay method itself, to the bit. Operations of training are counted (`parts/training_cost.py`) and stored beside the
validation numbers as `training_flops`; kernels are dense, so the clock does not follow them.

Deviations: the gradient in the importance is that of the last step's whole loss, before the optimizer moved; a slot whose stored integer is 0 counts
as masked at the start of the next task; layers are all but the first and the head, where the public code takes the 3x3 convolutions of a ResNet;
replay as in `er`, `der`, `derpp`. Defaults are those of the public code for sparsity 0.75, epochs as shares of its 50. Isolation `none`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field

from tsn_toolkit.contracts import TaskResult
from tsn_toolkit.parts.data_removal import DataRemoval
from tsn_toolkit.parts.dynamic_mask import DynamicMask
from tsn_toolkit.parts.gradient_mask import GradientMask
from tsn_toolkit.parts.training_cost import TrainingCost
from tsn_toolkit.trainer.context import TaskContext
from tsn_toolkit.trainer.device import seeded
from tsn_toolkit.trainer.replay import Replay, ReplayOptions
from tsn_toolkit.trainer.revision import SETTINGS, SharedNetwork, finish_revision, start_revision, train_shared_
from tsn_toolkit.trainer.training_hooks import TrainingHooks

__all__ = ["ISOLATION", "SETTINGS", "Config", "learn"]

ISOLATION = "none"

STRETCH = 0.1
"""Share of a task's epochs between two updates of the mask, and between two removals."""
STAGES = 4
"""Removals per task."""


class Config(ReplayOptions):
    """Options of `strategy.options`.

    Attributes:
        replay: `er` (labels), `der` (logits) or `derpp` (both).
        alpha: factor of the distance to stored logits (`der`, `derpp`).
        beta: factor of the replayed examples' cross entropy (`er`, `derpp`).
        sparsity: fraction of the weights of each masked layer that is zero; 0 switches masking off.
        swing: how far the sparsity goes to either side within a task.
        gradient_weight: of |gradient| beside |weight| in the importance.
        keep_gradients: fraction of a layer's gradients that is used; 1 switches gradient masking off.
        refresh_every: steps between new gradient patterns.
        remove: fraction of the training examples that is removed in the end; 0 switches data removal off.
    """

    replay: Literal["er", "der", "derpp"] = "derpp"
    alpha: float = Field(0.1, gt=0)
    beta: float = Field(0.5, gt=0)
    sparsity: float = Field(0.75, ge=0, lt=1)
    swing: float = Field(0.01, ge=0, lt=0.5)
    gradient_weight: float = Field(0.5, ge=0)
    keep_gradients: float = Field(0.2, gt=0, le=1)
    refresh_every: int = Field(30, ge=1)
    remove: float = Field(0.3, ge=0, lt=1)


def learn(context: TaskContext, config: Config) -> TaskResult:
    """One task on top of the newest revision, with its buffer.

    Raises:
        RecipeError: as `start_revision`.
    """
    with seeded(context.seed):
        network = start_revision(context, config)
        labels, logits = (config.beta if config.replay != "der" else 0.0), (config.alpha if config.replay != "er" else 0.0)
        replay = Replay(network, context, config, labels=labels, logits=logits)
        sparse = _Sparse(network, context, config, replayed=replay.examples_per_step)
        train_shared_(
            network,
            context,
            config,
            name="sparse training with replay",
            hooks=TrainingHooks(
                extra_loss=replay,
                examples=sparse.removal,
                before_epoch=sparse.before_epoch,
                before_step=sparse.before_step,
                after_step=sparse.after_step,
            ),
        )
        masks = sparse.mask.masks if sparse.mask is not None else None
        result = finish_revision(
            network, context, config, strategy="sparcl", remember=replay.remember, replayed=replay.examples(), masks=masks
        )
        return replace(result, validation={**result.validation, "training_flops": sparse.cost.flops})


class _Sparse:
    """The three parts of one task, as hooks of the training loop, and the operations that are left.

    Attributes:
        mask: of the weights; None where masking is off.
        removal: of examples; None where it is off.
        cost: operations so far.
    """

    def __init__(self, network: SharedNetwork, context: TaskContext, config: Config, *, replayed: int):
        graph, model = context.graph, network.model
        self._epochs, self._every = context.epochs, context.epochs_of(STRETCH)
        self._examples = min(context.settings.batch_size, len(network.data.train)) + replayed
        weights = {layer.name: model.get_parameter(f"{layer.name}.weight") for layer in graph.layers[1:] if layer.name != graph.head}
        self.cost = TrainingCost(graph.layers, head=graph.head, logits=len(network.head.classes))
        self.mask: DynamicMask | None = None
        if config.sparsity:
            generator = torch.Generator().manual_seed(context.seed + 2)
            self.mask = DynamicMask(
                weights, sparsity=config.sparsity, swing=config.swing, gradient_weight=config.gradient_weight, generator=generator
            )
        self._gradients = GradientMask(weights, keep=config.keep_gradients, refresh_every=config.refresh_every) if config.keep_gradients < 1 else None
        size = len(network.data.train)
        self.removal = DataRemoval(size, fraction=config.remove, stages=STAGES, every=self._every) if config.remove else None

    def before_epoch(self, epoch: int) -> None:
        if self.mask is not None and epoch % self._every == 0:
            self.mask.update_(epoch / self._epochs)
            self.cost.add_operations(self.mask.update_operations())

    def before_step(self, step: int) -> None:
        if self._gradients is not None:
            self._gradients.apply_(step, self.mask.masks if self.mask is not None else {})
            self.cost.add_operations(self._gradients.operations(step))
        densities = self.mask.densities if self.mask is not None else {}
        self.cost.add_step(self._examples, densities, self._gradients.densities if self._gradients is not None else {})

    def after_step(self, _: int) -> None:
        if self.mask is not None:
            self.mask.apply_()
            self.cost.add_operations(self.mask.apply_operations())
