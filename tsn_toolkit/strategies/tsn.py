"""`tsn`: a score-learned, quantized subnetwork per task over shared bits (TinySubNets, AAAI 2025, arXiv 2412.10869; on WSN, ICML 2022).

Per task: units are chosen first, per coupled group; inside the units that stay, a mask says which slots are used (fresh trunk) or owned (trained
trunk); own weights become b-bit codes of a codebook fitted on OWN weights alone; inherited integers are read and never written.

1. warm-up (fresh trunk only): all slots free, so that the unit criterion has something to judge.
2. units: the plan's number per group, best first by the criterion on this task's training data; the rest is physically removed for training.
3. search, per layer: where the frozen view has gaps, weights and scores train together, w = m * (inherited or own), m = the density's largest
   |score|, straight through. In the plan's `child_layers` the same scores say which slots the task changes, w = parent's + m * (own - parent's), used
   ones or not. Where the view is full, all slots train for a while; those that moved most become the task's own, all others go back to the inherited
   bits. Where the plan says planes, the difference to the frozen view trains freely.
4. codes: masks fixed, codebooks refitted after each epoch, weights, signs and gains trained through their roundings; the epoch with the least
   validation loss stays. Where widths adapt, they are chosen before the last fifth of these epochs: a network that has not settled hardly feels
   how coarse its weights are.
5. integers: norms re-estimated with the final integers (fresh trunk), everything rounded to what the store holds, activation ranges calibrated.

Over a trained trunk, what pruning broke is first mended in closed form (`parts/reconstruction.py`), and norms keep the trunk's statistics: those of
one task's few classes are worse than those of the whole training set.

Deviations from the paper: codebooks never touch inherited weights (the public code re-quantizes them); the mask of the selected checkpoint is the
mask that is stored; widths adapt layer by layer, or are the plan's (`parts/adaptive_bits.py`); the parent is found by what earlier subnetworks see in
the new data (`parts/task_similarity.py`), not by divergences between data, since no data are kept.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import nn
from torch.nn import functional

from tsn_toolkit import registry
from tsn_toolkit.contracts import LayerPlan, ShrunkModel, Split, TaskResult
from tsn_toolkit.errors import PlanError
from tsn_toolkit.graph.shrink import shrink
from tsn_toolkit.parts.distillation import FeatureDistillation
from tsn_toolkit.parts.gains import clamp_gains_, foldable_norms
from tsn_toolkit.parts.own_slots import choose_own_slots_, divide_budget_, refresh_masks_, start_scores_, update_scores_every_
from tsn_toolkit.parts.plane_weight import PlaneWeight, plane_wrapped
from tsn_toolkit.parts.reconstruction import reconstruct_
from tsn_toolkit.parts.slots import gather_frozen
from tsn_toolkit.parts.subnet_weight import SubnetWeight, attach_, detach_, wrapped
from tsn_toolkit.parts.task_similarity import ParentRule
from tsn_toolkit.plan.choose import choose_units
from tsn_toolkit.trainer.codes_phase import choose_bit_widths_, tune_centroids_
from tsn_toolkit.trainer.context import TaskContext, starting_model
from tsn_toolkit.trainer.device import seeded
from tsn_toolkit.trainer.finish_task import finish_task
from tsn_toolkit.trainer.loop import Phase, fit, plain_batches, steps_per_epoch, training_sample
from tsn_toolkit.trainer.strategy_options import StrategyOptions
from tsn_toolkit.trainer.training_hooks import ExtraLoss, TrainingHooks

ISOLATION = "exact"
SETTINGS = ("task-incremental", "domain-incremental", "class-incremental")  # the last two by `task_inference`

LEAST_UPDATES = 20
"""Updates of the scores that a search has at least, where it has as many steps."""
NARROWED_SHARE = 0.2
"""Share of the codes phase that trains through codes narrowed by adaptive bit widths; at least one epoch."""
NARROWED_RATE = 0.5
"""Peak learning rate of that stretch, relative to the task's."""


class Config(StrategyOptions):
    """Options of `strategy.options`; fractions are of the task's epochs.

    Attributes:
        similarity: with `parent: auto`, how the parent is found among the trunk and all earlier tasks: leave-one-out accuracy of nearest neighbours
            on the features that their subnetworks make of this task's training data (`knn`), the divergence of its classes there (`gaussian`), or
            not at all (`none`). The parent's subnetwork is where masks and scores start.
        similarity_margin: by how much a task has to beat the trunk to become the parent, with confidence (`parts/task_similarity.py`); a fraction of
            the examples (`knn`) or nats per feature (`gaussian`).
        similarity_samples: training examples that are looked at.
        warmup: share of the epochs before units are chosen (fresh trunk).
        search: share of the epochs in which scores, or changes, are learned.
        start_density: density at which the search begins; it falls to the plan's on a cubic, reached after `descent` of it (fresh trunk only).
        descent: share of the search in which the density falls.
        fresh_share: factor of the initialisation of free slots where a task has a parent: near 0, a task begins with what its parent computes.
        score_rate: learning rate of scores relative to weights.
        score_every: steps from one update of the scores to the next, each at the rate times the square root of that many (gradients of scores are
            mostly noise, whose steps add up like that); fewer where a search is so short that there would be less than `LEAST_UPDATES`. The gradient
            of scores is worked out in those steps alone. More than 2 costs bytes: masks follow the parent less.
        refresh_every: steps between exact refreshes of the score mask.
        reuse_bonus: raises the ranking of the slots that the parent uses, in units of the layer's root mean square score: masks that repeat the
            parent's take fewer bytes, and so do codes that are inherited.
        refine_bits: bits per residual of inherited slots that the task corrects, 0 for none (fresh trunk only).
        refine_share: fraction of the used inherited slots that are corrected.
        budget_batches: training batches from which one budget of slots is divided over the layers (`plan.density_by_layer: learned`).
        criterion_batches: training batches the unit criterion sees.
        criterion_loss: what the unit criterion differentiates: `output` (a random projection of the logits, so that units count by how much they
            move the answer, also on examples that a trained trunk already fits) or `labels` (cross entropy).
        reconstruction_samples: training examples that the reconstruction sees.
        ridge: of the closed-form reconstruction after pruning a trained trunk, relative to the mean squared input.
        distillation: weight of the feature loss towards the parent's whole network (trained trunk only); 0 switches it off.
        label_weight: weight of the labels beside the distillation (trained trunk only); near 0 where the trunk has fitted the training data already.
        centroid_epochs: epochs, of the task's, in which codebook entries move with all codes fixed; kept if validation does not become worse.
    """

    similarity: Literal["none", "knn", "gaussian"] = "none"
    similarity_margin: float = Field(0.0, ge=0)
    similarity_samples: int = Field(512, ge=16)
    warmup: float = Field(0.25, ge=0, lt=1)
    search: float = Field(0.35, gt=0, lt=1)
    start_density: float = Field(0.0, ge=0, le=1)
    descent: float = Field(0.8, gt=0, le=1)
    fresh_share: float = Field(0.1, ge=0, le=1)
    score_rate: float = Field(1.0, gt=0)
    score_every: int = Field(2, ge=1)
    refresh_every: int = Field(5, ge=1)
    reuse_bonus: float = Field(0.0, ge=0)
    refine_bits: int = Field(0, ge=0, le=8)
    refine_share: float = Field(0.1, gt=0, le=1)
    budget_batches: int = Field(16, ge=1)
    criterion_batches: int = Field(8, ge=1)
    criterion_loss: Literal["output", "labels"] = "output"
    reconstruction_samples: int = Field(256, ge=16)
    ridge: float = Field(1e-3, gt=0)
    distillation: float = Field(1.0, ge=0)
    label_weight: float = Field(1.0, ge=0)
    centroid_epochs: int = Field(0, ge=0)


def parent_rule(config: Config) -> ParentRule | None:
    """How the parent is found where the recipe leaves it open; None: not by similarity."""
    return None if config.similarity == "none" else ParentRule(config.similarity, config.similarity_margin, config.similarity_samples)


def learn(context: TaskContext, config: Config) -> TaskResult:
    """One task, from the committed store's view to integers.

    Raises:
        PlanError: a layer is to be shared that no ancestor has.
    """
    layers = context.plan.layers_of(child=context.start is not None)
    for plan in layers:
        if plan.encoding == "shared" and context.inherited[plan.name].scale is None:
            raise PlanError(
                f"`layers.{plan.name}.encoding` is shared, but no ancestor of task `{context.data.name}` has the layer (parent `{context.parent}`). "
                "Set it to codes, or start from a trained trunk."
            )
    with seeded(context.seed):
        generator = context.generator()
        fresh = not context.trained_trunk
        warmup = context.epochs_of(config.warmup) if fresh and context.plan.groups else 0
        search = context.epochs_of(config.search)
        codes = max(1, context.epochs - warmup - search - config.centroid_epochs)
        model = starting_model(context, fresh_share=config.fresh_share)
        if warmup:
            _warm_up(model, context, config, warmup, generator)
        unit_masks = _choose_units(model, context, config)
        small = shrink(model.cpu().eval(), context.graph, unit_masks)
        if not fresh:
            free = frozenset(plan.name for plan in layers if plan.encoding != "shared")
            reconstruct_(small.model, model, small.slots, training_sample(context.data, config.reconstruction_samples), ridge=config.ridge, free=free)
        _wrap_(small, layers, context, config)
        small.model.to(context.settings.device)
        with _teaching(model, small, context, config, fresh) as extra_loss:
            _search(small.model, context, config, search, generator, extra_loss)
            _fit_codes(small.model, context, config, codes, generator, extra_loss)
        return finish_task(
            small, model, unit_masks, context, strategy="tsn", calibration_batches=config.calibration_batches, reestimate=fresh
        )


def _teaching(
    model: nn.Module, small: ShrunkModel, context: TaskContext, config: Config, fresh: bool
) -> FeatureDistillation | nullcontext[None]:
    """The parent's whole network as teacher, where there is a trained one."""
    if fresh or config.distillation == 0:
        return nullcontext()
    head = context.graph.head
    slots = small.slots[f"{head}.weight"].flatten(1)[0]
    features = model.get_submodule(head).weight[0].numel()
    teacher = copy.deepcopy(model).to(context.settings.device)
    columns = (slots % features).to(context.settings.device)
    return FeatureDistillation(teacher, small.model, head, columns=columns, weight=config.distillation)


def _warm_up(model: nn.Module, context: TaskContext, config: Config, epochs: int, generator: torch.Generator) -> None:
    """Trains every slot that nobody owns, beside those that the parent uses, so that units can be judged."""
    for name, frozen in context.inherited.items():
        wrapper = SubnetWeight(
            torch.from_numpy(frozen.q).float(),
            torch.from_numpy(frozen.present),
            None if frozen.scale is None else torch.from_numpy(frozen.scale),
            rule="select",
            density=1.0,
            bit_width=8,
            max_code=context.plan.max_code,
        )
        wrapper.preferred.copy_(_parent_uses(context, name))
        wrapper.mask.copy_(~wrapper.idle_slots())
        attach_(model.get_submodule(name), wrapper.to(context.settings.device))
    phase = Phase("warm-up", epochs, context.learning_rate, "rise")
    _fit(model, context, config, phase, generator)
    detach_(model)


def _choose_units(model: nn.Module, context: TaskContext, config: Config) -> dict[str, np.ndarray]:
    if not context.plan.groups:
        return {}
    criterion = registry.load("tsn_toolkit.importance", context.importance)
    loss = functional.cross_entropy if config.criterion_loss == "labels" else _random_projection
    scores = criterion.score(model.eval(), context.graph, _sample_batches(context, config.criterion_batches), loss)
    return choose_units(context.graph, context.plan, scores)


def _sample_batches(context: TaskContext, count: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """At most `count` batches of training examples, spread over the split, without augmentation."""
    size, train = context.settings.batch_size, context.data.train
    stride = max(1, len(train) // (size * count))
    return list(plain_batches(Split(train.x[::stride], train.y[::stride]), context.data, size, context.settings.device))[:count]


def _random_projection(logits: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    """A scalar whose gradient, squared and averaged over draws, is the squared Jacobian of the logits."""
    return (logits * torch.randn(logits.shape).to(logits.device)).sum() / len(logits)


def _wrap_(small: ShrunkModel, layers: Iterable[LayerPlan], context: TaskContext, config: Config) -> None:
    """One wrapper per layer that is not shared, as its encoding and what it inherits ask for."""
    changed = {plan.name for plan in context.plan.child_layers} if context.start is not None else set()
    for plan in layers:
        module, slots = small.model.get_submodule(plan.name), small.slots[f"{plan.name}.weight"]
        if plan.encoding == "shared":
            module.weight.requires_grad_(False)
            continue
        q, present, scale = gather_frozen(context.inherited[plan.name], slots)
        if plan.encoding == "planes":  # over the whole frozen view, as the store adds them
            attach_(module, PlaneWeight(q, scale, max_code=context.plan.max_code))
            continue
        uses, full = _parent_uses(context, plan.name).flatten()[slots], bool(context.inherited[plan.name].present.all())
        if plan.name in changed:
            _forget_idle_(module.weight, present & ~uses)
            q, present = q * uses, present & uses
        wrapper = SubnetWeight(
            q,
            present,
            scale,
            rule="replace" if plan.name in changed or full else "select",
            scored=plan.name in changed or not full,
            density=plan.density,
            bit_width=plan.bit_width,
            max_code=context.plan.max_code,
            granularity=plan.granularity,
            refine_bits=config.refine_bits,
        )
        wrapper.bonus = config.reuse_bonus if context.start is not None and wrapper.rule == "select" else 0.0
        wrapper.preferred.copy_(uses)
        attach_(module, wrapper)


@torch.no_grad()
def _forget_idle_(weight: torch.Tensor, idle: torch.Tensor) -> None:
    """A task that changes its parent begins at 0 where only other ancestors have a value, in place."""
    weight.mul_(~idle)


def _parent_uses(context: TaskContext, name: str) -> torch.Tensor:
    """Bool, shape of the layer's weight: slots with a value in the parent's own network."""
    if context.start is None:
        return torch.zeros(context.inherited[name].q.shape, dtype=torch.bool)
    return torch.from_numpy(context.start.q[name] != 0)


def _search(
    model: nn.Module, context: TaskContext, config: Config, epochs: int, generator: torch.Generator, extra_loss: ExtraLoss | None
) -> None:
    """Learns which slots are used, owned or refined, and fixes the masks."""
    shared = context.plan.density_by_layer == "learned"
    if shared:
        divide_budget_(model.train(), _sample_batches(context, config.budget_batches), functional.cross_entropy)
    start_scores_(model, config.start_density)
    steps = epochs * steps_per_epoch(context.data.train, context.settings)
    descent, score_every = max(1.0, config.descent * steps), min(config.score_every, max(1, steps // LEAST_UPDATES))

    def refresh(step: int) -> None:
        if (step + 1) % config.refresh_every == 0:
            refresh_masks_(model, config.start_density, (step + 1) / descent)
        update_scores_every_(model, score_every, step + 1)

    update_scores_every_(model, score_every, 0)
    phase = Phase("search", epochs, context.learning_rate, "rise", label_weight=config.label_weight if extra_loss is not None else 1.0)
    _fit(model, context, config, phase, generator, refresh, extra_loss, score_rate=config.score_rate * score_every**0.5)
    refresh_masks_(model)
    choose_own_slots_(model, shared=shared)
    for _, wrapper, latent in wrapped(model):
        wrapper.learn_scores = False
        if wrapper.refine_bits:
            wrapper.choose_refined_(latent, config.refine_share)


def _fit_codes(
    model: nn.Module, context: TaskContext, config: Config, epochs: int, generator: torch.Generator, extra_loss: ExtraLoss | None
) -> None:
    """Trains own weights through their codebooks, and signs and gains through their roundings, masks fixed; narrows codes before the last epochs."""
    for _, wrapper, latent in plane_wrapped(model):
        wrapper.start_plane_(latent, context.precision.vectors)
    for _, wrapper, latent in wrapped(model):
        wrapper.fix_scale_(latent, context.precision.vectors)
    weight = config.label_weight if extra_loss is not None else 1.0
    codes = Phase("codes", epochs, context.learning_rate, "fall", select_best=True, label_weight=weight)
    if context.precision.adapt_bits:
        narrowed = max(1, round(NARROWED_SHARE * epochs))
        if epochs > narrowed:
            _train_codes(model, context, config, replace(codes, epochs=epochs - narrowed), generator, extra_loss)
            codes = replace(codes, name="narrowed codes", epochs=narrowed, learning_rate=NARROWED_RATE * context.learning_rate)
        choose_bit_widths_(model, context)
    _train_codes(model, context, config, codes, generator, extra_loss)
    tune_centroids_(model, context, config.centroid_epochs, generator, extra_loss=extra_loss, label_weight=weight)


def _train_codes(
    model: nn.Module, context: TaskContext, config: Config, phase: Phase, generator: torch.Generator, extra_loss: ExtraLoss | None
) -> None:
    """One stretch of the codes phase, codebooks fitted at its start and after each epoch but the last."""
    layers = list(wrapped(model))
    for _, wrapper, latent in layers:
        wrapper.fit_codebook_(latent)
    steps = steps_per_epoch(context.data.train, context.settings)

    def refit(step: int) -> None:
        if (step + 1) % steps == 0 and step + 1 < phase.epochs * steps:
            for _, wrapper, latent in layers:
                wrapper.fit_codebook_(latent)

    _fit(model, context, config, phase, generator, refit, extra_loss)


def _fit(
    model: nn.Module,
    context: TaskContext,
    config: Config,
    phase: Phase,
    generator: torch.Generator,
    after_step: Callable[[int], None] | None = None,
    extra_loss: ExtraLoss | None = None,
    score_rate: float = 1.0,
) -> None:
    scores = [wrapper.score for _, wrapper, _ in wrapped(model)]
    chosen = {id(score) for score in scores}
    weights = [p for p in model.parameters() if id(p) not in chosen and p.requires_grad]
    groups = [{"params": weights}]
    if any(wrapper.learn_scores for _, wrapper, _ in wrapped(model)):
        groups.append({"params": scores, "rate": score_rate, "weight_decay": 0.0})
    gains = [gain for name in foldable_norms(context.graph) if (gain := model.get_submodule(name).weight) is not None]

    def after(step: int) -> None:
        clamp_gains_(gains, config.min_gain)
        if after_step is not None:
            after_step(step)

    fit(
        model,
        context.data,
        phase,
        context.settings,
        parameters=groups,
        generator=generator,
        progress=context.progress,
        train_norms=not context.trained_trunk,
        hooks=TrainingHooks(extra_loss=extra_loss, after_step=after),
    )
