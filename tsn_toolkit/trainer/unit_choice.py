"""Which units a task keeps: the plan's number per group, best first by a criterion on the task's training data.

Over a fresh trunk a warm-up comes first, with all slots free, so that the criterion has something to judge.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from tsn_toolkit import registry
from tsn_toolkit.parts.wrapping import detach_
from tsn_toolkit.plan.choose import choose_units
from tsn_toolkit.trainer.context import TaskContext
from tsn_toolkit.trainer.fit_selected import fit_selected_
from tsn_toolkit.trainer.free_parameters import all_inherited_held
from tsn_toolkit.trainer.loop import Phase, spread_batches
from tsn_toolkit.trainer.wrap_layers import wrap_free_slots_

CriterionLoss = Literal["output", "labels"]
"""What a unit criterion differentiates: a random projection of the logits, or the cross entropy."""


def warm_up_(model: nn.Module, context: TaskContext, epochs: int, generator: torch.Generator, *, min_gain: float) -> None:
    """Trains every slot that nobody owns, beside those that the parent uses, in place.

    Args:
        model: the full module where learning starts.
        context: the task.
        epochs: passes over the training split.
        generator: of the shuffle and the augmentation.
        min_gain: smallest gain of a foldable norm.
    """
    wrap_free_slots_(model, context)
    with all_inherited_held(model, context):
        fit_selected_(model, context, Phase("warm-up", epochs, context.learning_rate, "rise"), generator, min_gain=min_gain)
    detach_(model)


def kept_units(model: nn.Module, context: TaskContext, *, batches: int, loss: CriterionLoss) -> dict[str, NDArray[np.bool_]]:
    """Group name -> bool per unit, True = kept, for every group of the plan.

    Args:
        model: the full module; left as it is, in evaluation mode.
        context: the task, with the name of its criterion.
        batches: training batches that the criterion sees.
        loss: what it differentiates.
    """
    if not context.plan.groups:
        return {}
    criterion = registry.load("tsn_toolkit.importance", context.importance)
    seen = spread_batches(context.data, context.settings.batch_size, batches, context.settings.device)
    scores = criterion.score(model.eval(), context.graph, seen, functional.cross_entropy if loss == "labels" else _random_projection)
    return choose_units(context.graph, context.plan, scores)


def _random_projection(logits: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    """A scalar whose gradient, squared and averaged over draws, is the squared Jacobian of the logits."""
    return (logits * torch.randn(logits.shape).to(logits.device)).sum() / len(logits)
