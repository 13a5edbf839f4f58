"""`tsn`: a score-learned, quantized subnetwork per task over shared bits (TinySubNets, AAAI 2025, arXiv 2412.10869; on WSN, ICML 2022).

Per task: units are chosen first, per coupled group; inside the units that stay, a mask says which slots are used (fresh trunk) or owned (trained
trunk); own weights become b-bit codes of a codebook fitted on OWN weights alone; inherited integers are read and never written.

1. warm-up (fresh trunk only): all slots free, so that the unit criterion has something to judge.
2. units: the plan's number per group, best first by the criterion on this task's training data; the rest is physically removed for training.
3. scores (fresh trunk): weights and scores train together, w = m * (inherited or own), m = the density's largest |score|, straight through.
   change (trained trunk): all slots train for a while; the slots that moved most become the task's own, all others go back to the trunk's bits.
4. codes: masks fixed, codebook refitted after each epoch, weights trained through it; the epoch with the least validation loss stays.
5. integers: norms re-estimated with the final integers (fresh trunk), everything rounded to what the store holds, activation ranges calibrated.

Over a trained trunk, what pruning broke is first mended in closed form (`parts/reconstruction.py`), and norms keep the trunk's statistics: those of
one task's few classes are worse than those of the whole training set.

Deviations from the paper: codebooks never touch inherited weights (the public code re-quantizes them); the mask of the selected checkpoint is the
mask that is stored; one bit width for all layers unless the plan says otherwise; parent and trunk are named by the recipe, not found by similarity;
no gradient-free post-pruning.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext
from typing import Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn
from torch.nn import functional

from tsn_toolkit import registry
from tsn_toolkit.contracts import ShrunkModel, Split, TaskResult
from tsn_toolkit.data.normalisation import normalise
from tsn_toolkit.errors import PlanError
from tsn_toolkit.graph.shrink import shrink
from tsn_toolkit.parts.distillation import FeatureDistillation
from tsn_toolkit.parts.gains import clamp_gains_, foldable_norms
from tsn_toolkit.parts.own_slots import choose_own_slots_
from tsn_toolkit.parts.reconstruction import reconstruct_
from tsn_toolkit.parts.slots import gather_frozen
from tsn_toolkit.parts.subnet_weight import SubnetWeight, attach_, detach_, wrapped
from tsn_toolkit.plan.choose import choose_units
from tsn_toolkit.trainer.context import TaskContext, starting_model
from tsn_toolkit.trainer.device import seeded
from tsn_toolkit.trainer.finish_task import finish_task
from tsn_toolkit.trainer.loop import Phase, fit, plain_batches

ISOLATION = "exact"
SETTINGS = ("task-incremental",)


ExtraLoss = Callable[[torch.Tensor], torch.Tensor]


class Config(BaseModel):
    """Options of `strategy.options`; fractions are of the task's epochs.

    Attributes:
        warmup: share of the epochs before units are chosen (fresh trunk).
        search: share of the epochs in which scores, or changes, are learned.
        score_rate: learning rate of scores relative to weights.
        refresh_every: steps between exact refreshes of the score mask.
        criterion_batches: training batches the unit criterion sees.
        criterion_loss: what the unit criterion differentiates: `output` (a random projection of the logits, so that units count by how much they
            move the answer, also on examples that a trained trunk already fits) or `labels` (cross entropy).
        reconstruction_samples: training examples that the reconstruction sees.
        ridge: of the closed-form reconstruction after pruning a trained trunk, relative to the mean squared input.
        distillation: weight of the feature loss towards the parent's whole network (trained trunk only); 0 switches it off.
        label_weight: weight of the labels beside the distillation (trained trunk only); near 0 where the trunk has fitted the training data already.
        calibration_batches: training batches for norms and activation ranges.
        min_gain: smallest gain of a foldable norm; keeps folded integers as they are.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    warmup: float = Field(0.25, ge=0, lt=1)
    search: float = Field(0.35, gt=0, lt=1)
    score_rate: float = Field(1.0, gt=0)
    refresh_every: int = Field(5, ge=1)
    criterion_batches: int = Field(8, ge=1)
    criterion_loss: Literal["output", "labels"] = "output"
    reconstruction_samples: int = Field(256, ge=16)
    ridge: float = Field(1e-3, gt=0)
    distillation: float = Field(1.0, ge=0)
    label_weight: float = Field(1.0, ge=0)
    calibration_batches: int = Field(16, ge=1)
    min_gain: float = Field(1e-3, gt=0)


def learn(context: TaskContext, config: Config) -> TaskResult:
    """One task, from the committed store's view to integers.

    Raises:
        PlanError: a layer is to be shared that no ancestor has.
    """
    for plan in context.plan.layers:
        if plan.encoding == "shared" and context.inherited[plan.name].scale is None:
            raise PlanError(
                f"`layers.{plan.name}.encoding` is shared, but no ancestor of task `{context.data.name}` has the layer (parent `{context.parent}`). "
                "Set it to codes, or start from a trained trunk."
            )
    with seeded(context.seed):
        generator = context.generator()
        fresh = not any(frozen.present.all() for frozen in context.inherited.values())
        warmup = max(1, round(config.warmup * context.epochs)) if fresh and context.plan.groups else 0
        search = max(1, round(config.search * context.epochs))
        codes = max(1, context.epochs - warmup - search)
        model = starting_model(context)
        if warmup:
            _warm_up(model, context, config, warmup, generator)
        unit_masks = _choose_units(model, context, config)
        small = shrink(model.cpu().eval(), context.graph, unit_masks)
        if not fresh:
            free = frozenset(plan.name for plan in context.plan.layers if plan.encoding == "codes")
            reconstruct_(small.model, model, small.slots, _some_inputs(context, config), ridge=config.ridge, free=free)
        _wrap_(small, context)
        small.model.to(context.settings.device)
        with _teaching(model, small, context, config, fresh) as extra_loss:
            _search(small.model, context, config, search, fresh, generator, extra_loss)
            _fit_codes(small.model, context, config, codes, generator, extra_loss)
        return finish_task(
            small, model, unit_masks, context, strategy="tsn", calibration_batches=config.calibration_batches, reestimate=fresh
        )


def _some_inputs(context: TaskContext, config: Config) -> torch.Tensor:
    """Training inputs spread over the split, for the criterion's and the norms' statistics; (n, ...)."""
    train = context.data.train
    stride = max(1, len(train) // config.reconstruction_samples)
    return normalise(train.x[::stride][: config.reconstruction_samples], context.data.mean, context.data.std)


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
    """Trains every slot that nobody owns, at full density, so that units can be judged."""
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
        attach_(model.get_submodule(name), wrapper.to(context.settings.device))
    phase = Phase("warm-up", epochs, context.learning_rate, "rise")
    _fit(model, context, config, phase, generator)
    detach_(model)


def _choose_units(model: nn.Module, context: TaskContext, config: Config) -> dict[str, np.ndarray]:
    if not context.plan.groups:
        return {}
    device = context.settings.device
    size, train = context.settings.batch_size, context.data.train
    stride = max(1, len(train) // (size * config.criterion_batches))
    batches = list(plain_batches(Split(train.x[::stride], train.y[::stride]), context.data, size, device))
    criterion = registry.load("tsn_toolkit.importance", context.importance)
    loss = functional.cross_entropy if config.criterion_loss == "labels" else _random_projection
    scores = criterion.score(model.eval(), context.graph, batches[: config.criterion_batches], loss)
    return choose_units(context.graph, context.plan, scores)


def _random_projection(logits: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    """A scalar whose gradient, squared and averaged over draws, is the squared Jacobian of the logits."""
    return (logits * torch.randn(logits.shape).to(logits.device)).sum() / len(logits)


def _wrap_(small: ShrunkModel, context: TaskContext) -> None:
    for plan in context.plan.layers:
        if plan.encoding == "shared":
            small.model.get_submodule(plan.name).weight.requires_grad_(False)
            continue
        q, present, scale = gather_frozen(context.inherited[plan.name], small.slots[f"{plan.name}.weight"])
        rule = "replace" if context.inherited[plan.name].present.all() else "select"
        wrapper = SubnetWeight(
            q, present, scale, rule=rule, density=plan.density, bit_width=plan.bit_width, max_code=context.plan.max_code
        )
        attach_(small.model.get_submodule(plan.name), wrapper)


def _search(
    model: nn.Module, context: TaskContext, config: Config, epochs: int, fresh: bool, generator: torch.Generator, extra_loss: ExtraLoss | None
) -> None:
    """Learns which slots are used or owned, and fixes the masks."""
    if not fresh:
        weight = config.label_weight if extra_loss is not None else 1.0
        phase = Phase("change", epochs, context.learning_rate, "rise", label_weight=weight)
        _fit(model, context, config, phase, generator, extra_loss=extra_loss)
        choose_own_slots_(model)
        return
    layers = list(wrapped(model))
    for _, wrapper, latent in layers:
        wrapper.score.data.copy_(latent.detach().abs())
        wrapper.learn_scores = True
        wrapper.refresh_mask_()

    def refresh(step: int) -> None:
        if (step + 1) % config.refresh_every == 0:
            for _, wrapper, _ in layers:
                wrapper.refresh_mask_()

    _fit(model, context, config, Phase("scores", epochs, context.learning_rate, "rise"), generator, refresh)
    for _, wrapper, _ in layers:
        wrapper.refresh_mask_()
        wrapper.learn_scores = False


def _fit_codes(
    model: nn.Module, context: TaskContext, config: Config, epochs: int, generator: torch.Generator, extra_loss: ExtraLoss | None
) -> None:
    """Trains own weights through their codebook, masks fixed."""
    layers = list(wrapped(model))
    for _, wrapper, latent in layers:
        wrapper.fix_scale_(latent)
        wrapper.fit_codebook_(latent)
    steps_per_epoch = max(1, len(context.data.train) // context.settings.batch_size)

    def refit(step: int) -> None:
        if (step + 1) % steps_per_epoch == 0 and step + 1 < epochs * steps_per_epoch:
            for _, wrapper, latent in layers:
                wrapper.fit_codebook_(latent)

    weight = config.label_weight if extra_loss is not None else 1.0
    phase = Phase("codes", epochs, context.learning_rate, "fall", select_best=True, label_weight=weight)
    _fit(model, context, config, phase, generator, refit, extra_loss)


def _fit(
    model: nn.Module,
    context: TaskContext,
    config: Config,
    phase: Phase,
    generator: torch.Generator,
    after_step: Callable[[int], None] | None = None,
    extra_loss: ExtraLoss | None = None,
) -> None:
    scores = [wrapper.score for _, wrapper, _ in wrapped(model)]
    chosen = {id(score) for score in scores}
    weights = [p for p in model.parameters() if id(p) not in chosen and p.requires_grad]
    groups = [{"params": weights}]
    if any(wrapper.learn_scores for _, wrapper, _ in wrapped(model)):
        groups.append({"params": scores, "rate": config.score_rate, "weight_decay": 0.0})
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
        after_step=after,
        progress=context.progress,
        extra_loss=extra_loss,
        train_norms=not any(frozen.present.all() for frozen in context.inherited.values()),
    )
