"""What a strategy is given to learn one task: nothing but the committed store's view, the recipe, the seed and the task's data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn

from tsn_toolkit.contracts import CompressionPlan, FrozenLayer, FrozenParameter, ModelGraph, Revision, TaskData
from tsn_toolkit.filling import Filling, fill_
from tsn_toolkit.free_parameters import free_parameters
from tsn_toolkit.model_loading import set_head
from tsn_toolkit.quantizers.ranges import DEFAULT_PERCENTILE, RangeRule
from tsn_toolkit.trainer.device import seeded
from tsn_toolkit.trainer.loop import Progress, TrainingSettings, training_sample
from tsn_toolkit.trainer.norms import restate_norms_
from tsn_toolkit.vocabulary import VectorPrecision

STATISTICS_EXAMPLES = 256
"""Training examples from which inherited norms take their statistics."""


@dataclass(frozen=True)
class Precision:
    """How finely the numbers of a task are stored.

    Attributes:
        adapt_bits: the plan's bit widths are the largest; smaller ones are chosen on validation data.
        bit_tolerance: largest rise of the validation loss that they may cost, as a fraction of 1 + the loss.
        vectors: how scales, norms, biases and free parameters are stored.
        head_bits: bits per code of the head, 2..8.
    """

    adapt_bits: bool = False
    bit_tolerance: float = 0.01
    vectors: VectorPrecision = "half"
    head_bits: int = 8


@dataclass(frozen=True)
class PostTraining:
    """What is done to a learned task before it becomes integers for good; see `trainer/post_training.py`.

    Attributes:
        samples: training examples that steps are fitted on.
        prune_share: share of a layer's own slots that post-pruning gives up at once; 0 for no post-pruning.
        prune_tolerance: largest rise of the validation loss that it may cost, as a fraction of 1 + the loss.
        equalize: cross-layer equalization.
        rounding: how own codes are chosen: the nearest, learned (AdaRound), or with error compensation (GPTQ).
        rounding_steps: of the optimizer of learned rounding, per layer.
        damping: of GPTQ, relative to the mean squared input.
        correct_biases: empirical bias correction.
        ranges: rule of the activation ranges.
        percentile: of the rule of that name.
    """

    samples: int = 256
    prune_share: float = 0.0
    prune_tolerance: float = 0.01
    equalize: bool = False
    rounding: Literal["nearest", "learned", "gptq"] = "nearest"
    rounding_steps: int = 300
    damping: float = 0.01
    correct_biases: bool = False
    ranges: RangeRule = "percentile"
    percentile: float = DEFAULT_PERCENTILE


@dataclass(frozen=True)
class TaskContext:
    """One task to learn.

    Attributes:
        factory: makes the pristine module; called under `trunk_seed`.
        graph: of the pristine module.
        plan: what to do per layer and group.
        parent: name of the owner whose frozen view is inherited.
        inherited: layer name -> frozen view; a layer without any owner has no True in `present`.
        start: the parent's own numbers, None when the parent is a seed trunk.
        start_classes: class of each logit of the parent's head.
        data: the task.
        trunk_seed: seed of the fresh initialisation, the same for all tasks.
        seed: of this task's training, derived from the recipe's seed and the task's index.
        epochs: passes over the training split, all phases together; a phase takes at least one.
        learning_rate: the peak.
        importance: registry name of the unit criterion.
        settings: of the loop.
        trained_trunk: the trunk holds trained weights, so that a task has features to keep and norms that fit them.
        precision: how finely the task's numbers are stored.
        post_training: what is done after learning.
        progress: called while training.
        note: called with one line on something that was decided.
        revision: of the parent, where the strategy's isolation is `none` and there is one: for which tasks it answers, and what its method kept.
        earlier: the data of all earlier tasks, loaded when called; only a method that is allowed to see them again calls it.
        keep: called with a name and JSON values that belong into the task's record.
        inherited_free: free parameter -> what the trunk and the ancestors own of it.
        own_free_parameters: the task trains and owns its free parameters, whatever it inherits.
    """

    factory: Callable[[], nn.Module]
    graph: ModelGraph
    plan: CompressionPlan
    parent: str
    inherited: Mapping[str, FrozenLayer]
    start: Filling | None
    start_classes: tuple[int, ...]
    data: TaskData
    trunk_seed: int
    seed: int
    epochs: int
    learning_rate: float
    importance: str
    settings: TrainingSettings
    trained_trunk: bool = False
    precision: Precision = Precision()
    post_training: PostTraining = PostTraining()
    progress: Progress | None = None
    note: Callable[[str], None] | None = None
    revision: Revision | None = None
    earlier: Callable[[], Sequence[TaskData]] | None = None
    keep: Callable[[str, Any], None] | None = None
    inherited_free: Mapping[str, FrozenParameter] = field(default_factory=dict)
    own_free_parameters: bool = False

    def generator(self) -> torch.Generator:
        """A fresh generator seeded for this task."""
        return torch.Generator().manual_seed(self.seed)

    def epochs_of(self, share: float) -> int:
        """Whole epochs that are a share (0..1) of the task's; one at least."""
        return max(1, round(share * self.epochs))


def starting_model(context: TaskContext, *, fresh_share: float = 1.0) -> nn.Module:
    """The full module where learning starts.

    Slots that are inherited hold the inherited weight, all others the fresh initialisation; norms and biases are the parent's (where slots
    are free, the norms are restated with this task's statistics); the head holds the parent's rows where the parent knows the task's classes, else
    fresh ones.

    Args:
        context: the task.
        fresh_share: factor of the fresh initialisation where the task has a parent: near 0, free slots hardly disturb what the parent computes.
    """
    with seeded(context.trunk_seed):
        model = context.factory()
    with seeded(context.seed):
        classes = context.data.classes
        if context.start is not None:
            set_head(model, context.graph.head, len(context.start_classes))
            _fill_present(model, context, fresh_share)
        rows = [context.start_classes.index(c) for c in classes if c in context.start_classes]
        old = model.get_submodule(context.graph.head)
        set_head(model, context.graph.head, len(classes))
        if context.start is not None and len(rows) == len(classes):
            new = model.get_submodule(context.graph.head)
            with torch.no_grad():
                new.weight.copy_(old.weight[rows])
                if new.bias is not None:
                    new.bias.copy_(old.bias[rows])
    return model.to(context.settings.device)


def _fill_present(model: nn.Module, context: TaskContext, fresh_share: float) -> None:
    """The parent's numbers, except that slots without an owner keep the fresh initialisation, in layers that have owners its `fresh_share`.

    Free parameters are inherited from all owners, not the parent alone, which may lack units that the task will keep.
    """
    assert context.start is not None
    free = {name: (parameter, parameter.detach().clone()) for name, parameter in free_parameters(model).items()}
    initial = {name: model.get_submodule(name).weight.detach().clone() for name in context.inherited}
    fill_(model, context.start, context.graph.head)
    if not context.trained_trunk:
        restate_norms_(model, training_sample(context.data, STATISTICS_EXAMPLES))
    with torch.no_grad():
        for name, (parameter, fresh) in free.items():
            inherited = context.inherited_free[name]
            parameter.copy_(torch.where(torch.from_numpy(inherited.present), torch.from_numpy(inherited.value), fresh))
        for name, frozen in context.inherited.items():
            weight = model.get_submodule(name).weight
            if frozen.scale is None:
                weight.copy_(initial[name])
                continue
            values = torch.from_numpy(frozen.q).float() * torch.from_numpy(frozen.scale).view(-1, *([1] * (frozen.q.ndim - 1)))
            weight.copy_(torch.where(torch.from_numpy(frozen.present), values, fresh_share * initial[name]))
