"""`sparcl`: sparse continual learning on replay (Wang et al., "SparCL: sparse continual learning on the edge", NeurIPS 2022, arXiv 2209.09476).

Three parts, each of which can be switched off, beside ER, DER or DER++:

- task-aware dynamic masking, `sparsity` > 0: weights are zero in training and in the store (`parts/dynamic_mask.py`)
- dynamic data removal, `remove` > 0: easy examples leave the training set (`parts/data_removal.py`)
- dynamic gradient masking, `keep_gradients` < 1: few gradients are used (`parts/gradient_mask.py`)

With all three off it is the replay method itself, to the bit. Operations of training are counted (`parts/training_cost.py`) and stored beside the
validation numbers as `training_flops`. Masks of single weights (`granularity: element`, as published) save operations on paper: kernels are dense, so
the clock does not follow them. With `granularity: unit` channels and hidden units go (`parts/dynamic_units.py`), and training runs on the network
that is left, so that operations, the clock and the stored bytes fall together. The first task trains densely for a first stretch, then units are
chosen; later tasks start from the small network that the store holds. They may exchange some of its units for removed ones (`redraw`); the default is
not to, because validation accuracy on permuted MNIST did not gain from it.

Deviations: the gradient in the importance is that of the last step's whole loss, before the optimizer moved; a slot whose stored integer is 0 counts
as masked at the start of the next task; layers are all but the first and the head, where the public code takes the 3x3 convolutions of a ResNet;
forgettings of examples add up over the whole task; replay as in `er`, `der`, `derpp`. Defaults are those of the public code for sparsity 0.75, epochs
as shares of its 50. Isolation `none`. Whole units are no part of the publication.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field

from tsn_toolkit.contracts import TaskResult
from tsn_toolkit.parts.data_removal import DataRemoval
from tsn_toolkit.parts.dynamic_mask import DynamicMask
from tsn_toolkit.parts.dynamic_units import choose_units
from tsn_toolkit.parts.gradient_mask import GradientMask
from tsn_toolkit.parts.kept_units import without_units
from tsn_toolkit.parts.redrawn_units import redraw_units_
from tsn_toolkit.parts.training_cost import TrainingCost
from tsn_toolkit.trainer.context import TaskContext
from tsn_toolkit.trainer.device import seeded
from tsn_toolkit.trainer.loop import Phase
from tsn_toolkit.trainer.replay import Replay, ReplayOptions
from tsn_toolkit.trainer.revision import SETTINGS, SharedNetwork, finish_revision, start_revision, train_stretch_
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
        granularity: what is masked: single weights (`element`) or whole units, which are then not computed (`unit`).
        sparsity: fraction of the weights of each masked layer that is zero; 0 switches masking off. Of `unit`: of layers between two groups that
            lose units.
        swing: how far the sparsity goes to either side within a task, of `element`.
        redraw: fraction of the units that is exchanged for removed ones between tasks, of `unit` (`parts/redrawn_units.py`).
        gradient_weight: of |gradient| beside |weight| in the importance.
        keep_gradients: fraction of a layer's gradients, those of removed units included, that is used; 1 switches gradient masking off.
        refresh_every: steps between new gradient patterns.
        remove: fraction of the training examples that is removed in the end; 0 switches data removal off.
    """

    replay: Literal["er", "der", "derpp"] = "derpp"
    alpha: float = Field(0.1, gt=0)
    beta: float = Field(0.5, gt=0)
    granularity: Literal["element", "unit"] = "element"
    sparsity: float = Field(0.75, ge=0, lt=1)
    swing: float = Field(0.01, ge=0, lt=0.5)
    redraw: float = Field(0.0, ge=0, le=1)
    gradient_weight: float = Field(0.5, ge=0)
    keep_gradients: float = Field(0.2, gt=0, le=1)
    refresh_every: int = Field(30, ge=1)
    remove: float = Field(0.3, ge=0, lt=1)


def learn(context: TaskContext, config: Config) -> TaskResult:
    """One task on top of the newest revision, with its buffer.

    Raises:
        RecipeError: as `start_revision`.
        PlanError: units are to be masked, and none may go.
    """
    with seeded(context.seed):
        network = start_revision(context, config)
        labels, logits = (config.beta if config.replay != "der" else 0.0), (config.alpha if config.replay != "er" else 0.0)
        replay = Replay(network, context, config, labels=labels, logits=logits)
        training = _Training(context, config, replay, size=len(network.data.train))
        if config.granularity == "unit" and config.sparsity:
            network = training.on_fewer_units(network)
        masks = training.finish_(network)
        result = finish_revision(network, context, config, strategy="sparcl", remember=replay.remember, replayed=replay.examples(), masks=masks)
        return replace(result, validation={**result.validation, "training_flops": training.flops})


class _Training:
    """The epochs of one task, in one stretch or two.

    Attributes:
        flops: operations so far.
    """

    def __init__(self, context: TaskContext, config: Config, replay: Replay, *, size: int):
        self._context, self._config, self._replay = context, config, replay
        self._generator, self._done = context.generator(), 0
        self._removal: DataRemoval | None = None
        if config.remove:
            generator = torch.Generator().manual_seed(context.seed + 3)
            self._removal = DataRemoval(size, fraction=config.remove, stages=STAGES, every=context.epochs_of(STRETCH), generator=generator)
        self.flops = 0.0

    def on_fewer_units(self, network: SharedNetwork) -> SharedNetwork:
        """The network with as many units as the newest revision has; where it has all, they are chosen after a dense first stretch."""
        context, config, graph = self._context, self._config, self._context.graph
        if network.unit_masks:
            generator = torch.Generator().manual_seed(context.seed + 2)
            fresh = context.factory()
            masks = redraw_units_(network.model, graph, network.unit_masks, share=config.redraw, fresh=fresh, generator=generator)
        else:
            self._run_(network, Phase("dense training with replay", context.epochs_of(STRETCH), context.learning_rate, "rise"))
            masks = choose_units(network.model, graph, sparsity=config.sparsity, gradient_weight=config.gradient_weight)
        model, units = without_units(network.model, graph, masks)
        return replace(network, model=model, units=units)

    def finish_(self, network: SharedNetwork) -> Mapping[str, torch.Tensor]:
        """Trains for the epochs that are left, one at least; the masks of single weights at the end."""
        epochs, schedule = max(1, self._context.epochs - self._done), "fall" if self._done else "hill"
        phase = Phase("sparse training with replay", epochs, self._context.learning_rate, schedule, first_epoch=self._done)
        return self._run_(network, phase)

    def _run_(self, network: SharedNetwork, phase: Phase) -> Mapping[str, torch.Tensor]:
        replay = self._replay.on(network)
        sparse = _Sparse(network, self._context, self._config, replayed=replay.examples_per_step)
        hooks = TrainingHooks(
            extra_loss=replay,
            examples=self._removal,
            before_epoch=sparse.before_epoch,
            before_step=sparse.before_step,
            after_step=sparse.after_step,
        )
        train_stretch_(network, self._context, self._config, phase, generator=self._generator, hooks=hooks)
        self._done += phase.epochs
        self.flops += sparse.cost.flops
        return sparse.mask.masks if sparse.mask is not None else {}


class _Sparse:
    """Masks of weights and gradients in one stretch of training, as hooks of the loop, and the operations that are left.

    Attributes:
        mask: of the weights; None where single weights are not masked.
        cost: operations so far.
    """

    def __init__(self, network: SharedNetwork, context: TaskContext, config: Config, *, replayed: int):
        graph, model, units = context.graph, network.model, network.units
        self._epochs, self._every = context.epochs, context.epochs_of(STRETCH)
        self._examples = min(context.settings.batch_size, len(network.data.train)) + replayed
        weights = {layer.name: model.get_parameter(f"{layer.name}.weight") for layer in graph.layers[1:] if layer.name != graph.head}
        layers = graph.layers if units is None else units.layers(graph.layers)
        self.cost = TrainingCost(layers, head=graph.head, logits=len(network.head.classes))
        self.mask: DynamicMask | None = None
        if config.sparsity and config.granularity == "element":
            generator = torch.Generator().manual_seed(context.seed + 2)
            self.mask = DynamicMask(
                weights, sparsity=config.sparsity, swing=config.swing, gradient_weight=config.gradient_weight, generator=generator
            )
        slots = {} if units is None else {name: units.slots_of(name) for name in weights}
        self._gradients: GradientMask | None = None
        if config.keep_gradients < 1:
            self._gradients = GradientMask(weights, keep=config.keep_gradients, refresh_every=config.refresh_every, slots=slots)

    def before_epoch(self, epoch: int) -> None:
        if self.mask is not None and epoch % self._every == 0:
            self.mask.update_(epoch / self._epochs)
            self.cost.add_operations(self.mask.update_operations())
            if self._gradients is not None:
                self.cost.add_operations(self._gradients.keep_within_(self.mask.masks))

    def before_step(self, step: int) -> None:
        masks, densities = (self.mask.masks, self.mask.densities) if self.mask is not None else ({}, {})
        gradients: Mapping[str, float] = {}
        if self._gradients is not None:
            self._gradients.apply_(step, masks)
            self.cost.add_operations(self._gradients.operations(step))
            gradients = self._gradients.computed(step)
        elif self.mask is not None:
            self.mask.apply_to_gradients_()
            self.cost.add_operations(self.mask.apply_operations())
        self.cost.add_step(self._examples, densities, gradients)

    def after_step(self, _: int) -> None:
        if self.mask is not None:
            self.mask.apply_()
            self.cost.add_operations(self.mask.apply_operations())
