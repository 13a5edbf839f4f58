"""Training of wrapped layers: own weights, and the scores that say which slots a task uses."""

from __future__ import annotations

from dataclasses import replace

import torch
from pydantic import Field
from torch import nn

from tsn_toolkit.parts.head_rounding import refit_heads_
from tsn_toolkit.parts.own_slots import refresh_masks_
from tsn_toolkit.parts.subnet_weight import wrapped
from tsn_toolkit.trainer.context import TaskContext
from tsn_toolkit.trainer.loop import Phase, fit
from tsn_toolkit.trainer.positive_gains import with_positive_gains
from tsn_toolkit.trainer.strategy_options import StrategyOptions
from tsn_toolkit.trainer.training_hooks import PLAIN, TrainingHooks
from tsn_toolkit.trainer.wrap_layers import wrap_coarse_head_


class ScoredOptions(StrategyOptions):
    """Options of strategies whose masks follow scores for all of a task's epochs; the density is the plan's.

    Attributes:
        score_rate: learning rate of scores relative to that of everything else.
        refresh_every: steps between exact refreshes of the masks.
    """

    score_rate: float = Field(1.0, gt=0)
    refresh_every: int = Field(1, ge=1)


def fit_selected_(
    model: nn.Module,
    context: TaskContext,
    phase: Phase,
    generator: torch.Generator,
    *,
    min_gain: float,
    score_rate: float = 1.0,
    hooks: TrainingHooks = PLAIN,
) -> None:
    """Trains what wants gradients, scores without weight decay, in place; gains of foldable norms stay positive, a trained trunk's norms as they are.

    A head that trains through its rounding gets its scales anew before each epoch.

    Args:
        model: with wrapped layers.
        context: the task.
        phase: how long and how fast.
        generator: of the shuffle and the augmentation.
        min_gain: smallest gain of a foldable norm.
        score_rate: learning rate of scores relative to weights.
        hooks: what the strategy adds.
    """
    scores = [wrapper.score for _, wrapper, _ in wrapped(model)]
    chosen = {id(score) for score in scores}
    groups = [{"params": [p for p in model.parameters() if p.requires_grad and id(p) not in chosen]}]
    if any(wrapper.learn_scores for _, wrapper, _ in wrapped(model)):
        groups.append({"params": scores, "rate": score_rate, "weight_decay": 0.0})

    def refit(epoch: int) -> None:
        refit_heads_(model)
        if hooks.before_epoch is not None:
            hooks.before_epoch(epoch)

    fit(
        model,
        context.data,
        phase,
        context.settings,
        parameters=groups,
        generator=generator,
        progress=context.progress,
        train_norms=not context.trained_trunk,
        hooks=with_positive_gains(replace(hooks, before_epoch=refit), model, context.graph, min_gain),
    )


def fit_scored_(model: nn.Module, context: TaskContext, options: ScoredOptions, *, name: str) -> None:
    """Trains scores, and what else wants gradients, for the task's epochs; the epoch of the least validation loss stays, its masks with it, in place.

    Args:
        model: with wrapped layers that learn their scores.
        context: the task.
        options: of the strategy.
        name: of the phase.
    """

    def refresh(step: int) -> None:
        if (step + 1) % options.refresh_every == 0:
            refresh_masks_(model)

    wrap_coarse_head_(model, context)
    phase = Phase(name, context.epochs, context.learning_rate, "hill", select_best=True)
    hooks = TrainingHooks(after_step=refresh)
    fit_selected_(model, context, phase, context.generator(), min_gain=options.min_gain, score_rate=options.score_rate, hooks=hooks)
