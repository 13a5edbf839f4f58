"""The search: weights and scores train together until it is settled which slots a task uses, owns or refines."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional

from tsn_toolkit.parts.own_slots import choose_own_slots_, divide_budget_, refresh_masks_, start_scores_, update_scores_every_
from tsn_toolkit.parts.subnet_weight import wrapped
from tsn_toolkit.trainer.context import TaskContext
from tsn_toolkit.trainer.fit_selected import fit_selected_
from tsn_toolkit.trainer.loop import Phase, spread_batches, steps_per_epoch
from tsn_toolkit.trainer.strategy_options import StrategyOptions
from tsn_toolkit.trainer.training_hooks import ExtraLoss, TrainingHooks

LEAST_UPDATES = 100
"""Updates of the scores that a search has at least, where it has as many steps."""


class SearchOptions(StrategyOptions):
    """Options of the search for a task's slots; the densities are the plan's.

    Attributes:
        start_density: density at which the search begins, at least the plan's; it falls to that on a cubic, reached after `descent` of it (fresh
            trunk only). 0 begins at the plan's and takes a few percent fewer bytes, at some cost in accuracy.
        descent: share of the search in which the density falls.
        score_rate: learning rate of scores relative to weights.
        score_every: steps from one update of the scores to the next, each at the rate times the square root of that many (gradients of scores are
            mostly noise, whose steps add up like that); fewer where a search is so short that there would be less than `LEAST_UPDATES`. The gradient
            of scores is worked out in those steps alone. More than 2 costs bytes: masks follow the parent less.
        refresh_every: steps between exact refreshes of the score mask.
        refine_share: fraction of the used inherited slots that a task with `refine_bits` corrects.
        budget_batches: training batches from which one budget of slots is divided over the layers (`plan.density_by_layer: learned`).
    """

    start_density: float = Field(1.0, ge=0, le=1)
    descent: float = Field(0.8, gt=0, le=1)
    score_rate: float = Field(1.0, gt=0)
    score_every: int = Field(2, ge=1)
    refresh_every: int = Field(5, ge=1)
    refine_share: float = Field(0.1, gt=0, le=1)
    budget_batches: int = Field(16, ge=1)


def search_(
    model: nn.Module,
    context: TaskContext,
    options: SearchOptions,
    epochs: int,
    generator: torch.Generator,
    *,
    extra_loss: ExtraLoss | None = None,
    label_weight: float = 1.0,
) -> None:
    """Learns which slots are used, owned or refined, and fixes the masks, in place.

    Args:
        model: with wrapped layers, on the task's device.
        context: the task.
        options: of the strategy.
        epochs: passes over the training split.
        generator: of the shuffle and the augmentation.
        extra_loss: a teacher's loss.
        label_weight: factor of the cross entropy.
    """
    shared = context.plan.density_by_layer == "learned"
    if shared:
        batches = spread_batches(context.data, context.settings.batch_size, options.budget_batches, context.settings.device)
        divide_budget_(model.train(), batches, functional.cross_entropy)
    start_scores_(model, options.start_density)
    steps = epochs * steps_per_epoch(context.data.train, context.settings)
    descent, score_every = max(1.0, options.descent * steps), min(options.score_every, max(1, steps // LEAST_UPDATES))

    def refresh(step: int) -> None:
        if (step + 1) % options.refresh_every == 0:
            refresh_masks_(model, options.start_density, (step + 1) / descent)
        update_scores_every_(model, score_every, step + 1)

    update_scores_every_(model, score_every, 0)
    phase = Phase("search", epochs, context.learning_rate, "rise", label_weight=label_weight)
    hooks = TrainingHooks(extra_loss=extra_loss, after_step=refresh)
    fit_selected_(model, context, phase, generator, min_gain=options.min_gain, score_rate=options.score_rate * score_every**0.5, hooks=hooks)
    refresh_masks_(model)
    choose_own_slots_(model, shared=shared)
    for _, wrapper, latent in wrapped(model):
        wrapper.learn_scores = False
        if wrapper.refine_bits:
            wrapper.choose_refined_(latent, options.refine_share)
