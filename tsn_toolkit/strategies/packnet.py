"""`packnet`: iterative pruning (Mallya and Lazebnik, "PackNet: adding multiple tasks to a single network by iterative pruning", CVPR 2018).

Task i uses every slot that an earlier task owns, read only, and trains all free ones. Then, per layer, the `keep` fraction of the free slots with the
largest |w| becomes its own, the rest is set to 0 and stays free for later tasks; the survivors are trained again.

    owned_i = keep * free_i,   free_{i+1} = (1 - keep) * free_i:   task i (0-based) owns keep * (1 - keep)^i of a layer

Value precision: own weights are rounded after training to `bit_width` bits (8) with one scale per output channel; the plan plays no part but for its
largest code.

Deviations: ties are broken by position, so that counts are exact; norms and biases are each task's own, where the paper freezes them after the first
task; `keep` is of the slots that are free, as in the paper's code. Isolation `exact`.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import nn

from tsn_toolkit.contracts import TaskResult
from tsn_toolkit.masks.top import keep_count, top_mask
from tsn_toolkit.parts.subnet_weight import wrapped
from tsn_toolkit.trainer.context import TaskContext, starting_model
from tsn_toolkit.trainer.device import seeded
from tsn_toolkit.trainer.finish_task import finish_task
from tsn_toolkit.trainer.fit_selected import fit_selected_
from tsn_toolkit.trainer.loop import Phase
from tsn_toolkit.trainer.select_layers import fix_codes_, require_free_slots, select_layers
from tsn_toolkit.trainer.strategy_options import StrategyOptions
from tsn_toolkit.trainer.wrap_layers import wrap_coarse_head_

ISOLATION = "exact"
SETTINGS = ("task-incremental", "domain-incremental", "class-incremental")  # the last two by `task_inference`


class Config(StrategyOptions):
    """Options of `strategy.options`.

    Attributes:
        keep: fraction of a layer's free slots that a task keeps.
        retrain: share of the task's epochs after pruning.
        retrain_rate: peak learning rate after pruning, relative to the task's.
        bit_width: bits per own weight.
    """

    keep: float = Field(0.5, gt=0, lt=1)
    retrain: float = Field(0.4, gt=0, lt=1)
    retrain_rate: float = Field(0.1, gt=0)
    bit_width: int = Field(8, ge=1, le=8)


def learn(context: TaskContext, config: Config) -> TaskResult:
    """One task in the slots that earlier tasks left free, on top of theirs.

    Raises:
        RecipeError: the trunk owns every slot.
    """
    require_free_slots(context, "packnet")
    with seeded(context.seed):
        model, generator = starting_model(context), context.generator()
        small = select_layers(model, context, bit_width=config.bit_width)
        retrain = context.epochs_of(config.retrain)
        dense = Phase("all free slots", max(1, context.epochs - retrain), context.learning_rate, "hill")
        fit_selected_(small.model, context, dense, generator, min_gain=config.min_gain)
        prune_free_(small.model, config.keep)
        rate = config.retrain_rate * context.learning_rate
        wrap_coarse_head_(small.model, context)
        survivors = Phase("survivors", retrain, rate, "fall", select_best=True)
        fit_selected_(small.model, context, survivors, generator, min_gain=config.min_gain)
        fix_codes_(small.model, context)
        return finish_task(small, model, {}, context, strategy="packnet", calibration_batches=config.calibration_batches, reestimate=True)


@torch.no_grad()
def prune_free_(model: nn.Module, keep: float) -> None:
    """Per layer, masks all but the inherited slots and the `keep` fraction of the free ones with the largest |w|, in place.

    Where no slot is free, nothing is kept; where any is, one slot at least.
    """
    for _, wrapper, latent in wrapped(model):
        free = ~wrapper.present
        size = torch.where(free, latent.abs(), -torch.ones_like(latent))
        wrapper.mask.copy_(wrapper.present | top_mask(size, keep_count(keep, int(free.sum()))))
