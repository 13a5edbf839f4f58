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
from collections.abc import Iterable
from contextlib import nullcontext
from typing import Literal

from pydantic import Field
from torch import nn

from tsn_toolkit.contracts import LayerPlan, ShrunkModel, TaskResult
from tsn_toolkit.errors import PlanError
from tsn_toolkit.graph.shrink import shrink
from tsn_toolkit.parts.distillation import FeatureDistillation
from tsn_toolkit.parts.reconstruction import reconstruct_
from tsn_toolkit.parts.task_similarity import ParentRule
from tsn_toolkit.trainer.codes_phase import fit_codes_, tune_centroids_
from tsn_toolkit.trainer.context import TaskContext, starting_model
from tsn_toolkit.trainer.device import seeded
from tsn_toolkit.trainer.finish_task import finish_task
from tsn_toolkit.trainer.loop import training_sample
from tsn_toolkit.trainer.search import SearchOptions, search_
from tsn_toolkit.trainer.unit_choice import CriterionLoss, kept_units, warm_up_
from tsn_toolkit.trainer.wrap_layers import wrap_layers_

ISOLATION = "exact"
SETTINGS = ("task-incremental", "domain-incremental", "class-incremental")  # the last two by `task_inference`
BY_ENCODING = True
"""A layer is stored as the plan's encoding says."""


class Config(SearchOptions):
    """Options of `strategy.options`; fractions are of the task's epochs.

    Attributes:
        similarity: with `parent: auto`, how the parent is found among the trunk and all earlier tasks: leave-one-out accuracy of nearest neighbours
            on the features that their subnetworks make of this task's training data (`knn`), the divergence of its classes there (`gaussian`), or
            not at all (`none`). The parent's subnetwork is where masks and scores start.
        similarity_margin: by how much a task has to beat the trunk to become the parent, with confidence (`parts/task_similarity.py`); a fraction of
            the examples (`knn`) or nats per feature (`gaussian`).
        similarity_samples: training examples that are looked at, at most; differences between tasks are often smaller than what a few hundred tell.
        warmup: share of the epochs before units are chosen (fresh trunk).
        search: share of the epochs in which scores, or changes, are learned.
        fresh_share: factor of the initialisation of free slots where a task has a parent: near 0, a task begins with what its parent computes.
        reuse_bonus: raises the ranking of the slots that the parent uses, in units of the layer's root mean square score: masks that repeat the
            parent's take fewer bytes, and so do codes that are inherited.
        refine_bits: bits per residual of inherited slots that the task corrects, 0 for none (fresh trunk only).
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
    similarity_samples: int = Field(2048, ge=16)
    warmup: float = Field(0.25, ge=0, lt=1)
    search: float = Field(0.35, gt=0, lt=1)
    fresh_share: float = Field(0.1, ge=0, le=1)
    reuse_bonus: float = Field(0.0, ge=0)
    refine_bits: int = Field(0, ge=0, le=8)
    criterion_batches: int = Field(8, ge=1)
    criterion_loss: CriterionLoss = "output"
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
    _require_shared(layers, context)
    fresh = not context.trained_trunk
    warmup = context.epochs_of(config.warmup) if fresh and context.plan.groups else 0
    search = context.epochs_of(config.search)
    codes = max(1, context.epochs - warmup - search - config.centroid_epochs)
    with seeded(context.seed):
        generator = context.generator()
        model = starting_model(context, fresh_share=config.fresh_share)
        if warmup:
            warm_up_(model, context, warmup, generator, min_gain=config.min_gain)
        unit_masks = kept_units(model, context, batches=config.criterion_batches, loss=config.criterion_loss)
        small = shrink(model.cpu().eval(), context.graph, unit_masks)
        if not fresh:
            free = frozenset(plan.name for plan in layers if plan.encoding != "shared")
            reconstruct_(small.model, model, small.slots, training_sample(context.data, config.reconstruction_samples), ridge=config.ridge, free=free)
        wrap_layers_(small, layers, context, refine_bits=config.refine_bits, reuse_bonus=config.reuse_bonus)
        net = small.model.to(context.settings.device)
        with _teaching(model, small, context, config) as teacher:
            weight = config.label_weight if teacher is not None else 1.0
            search_(net, context, config, search, generator, extra_loss=teacher, label_weight=weight)
            fit_codes_(net, context, codes, generator, min_gain=config.min_gain, extra_loss=teacher, label_weight=weight)
            tune_centroids_(net, context, config.centroid_epochs, generator, extra_loss=teacher, label_weight=weight)
        return finish_task(small, model, unit_masks, context, strategy="tsn", calibration_batches=config.calibration_batches, reestimate=fresh)


def _require_shared(layers: Iterable[LayerPlan], context: TaskContext) -> None:
    """Refuses to share a layer that no ancestor has."""
    for plan in layers:
        if plan.encoding == "shared" and context.inherited[plan.name].scale is None:
            raise PlanError(
                f"`layers.{plan.name}.encoding` is shared, but no ancestor of task `{context.data.name}` has the layer (parent `{context.parent}`). "
                "Set it to codes, or start from a trained trunk."
            )


def _teaching(model: nn.Module, small: ShrunkModel, context: TaskContext, config: Config) -> FeatureDistillation | nullcontext[None]:
    """The parent's whole network as teacher, where there is a trained one."""
    if not context.trained_trunk or config.distillation == 0:
        return nullcontext()
    head = context.graph.head
    slots = small.slots[f"{head}.weight"].flatten(1)[0]
    features = model.get_submodule(head).weight[0].numel()
    teacher = copy.deepcopy(model).to(context.settings.device)
    columns = (slots % features).to(context.settings.device)
    return FeatureDistillation(teacher, small.model, head, columns=columns, weight=config.distillation)
