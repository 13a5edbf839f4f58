"""`lwf`: learning without forgetting (Li and Hoiem, ECCV 2016, arXiv 1606.09282).

    loss = CE(f(x), y) + strength * distillation(f(x), f_old(x); T)      on the logits of earlier tasks, x of the new task alone

f_old is the newest revision, frozen, in its stored integers; the distillation is a soft cross entropy per earlier task, or over all earlier logits
where the task is not known at prediction time (`parts/output_distillation.py`). Nothing is kept but the network.

Deviation: no warm-up of the new logits with all else frozen. Isolation `none`.
"""

from __future__ import annotations

import copy

from pydantic import Field

from tsn_toolkit.contracts import TaskResult
from tsn_toolkit.parts.output_distillation import OutputDistillation
from tsn_toolkit.trainer.context import TaskContext
from tsn_toolkit.trainer.device import seeded
from tsn_toolkit.trainer.revision import SETTINGS, RevisionOptions, SharedNetwork, finish_revision, start_revision, train_shared_
from tsn_toolkit.trainer.training_hooks import TrainingHooks

__all__ = ["ISOLATION", "SETTINGS", "Config", "learn"]

ISOLATION = "none"


class Config(RevisionOptions):
    """Options of `strategy.options`.

    Attributes:
        strength: factor of the distillation.
        temperature: of its softmaxes.
    """

    strength: float = Field(1.0, gt=0)
    temperature: float = Field(2.0, gt=0)


def learn(context: TaskContext, config: Config) -> TaskResult:
    """One task on top of the newest revision, which teaches its own answers.

    Raises:
        RecipeError: as `start_revision`.
    """
    with seeded(context.seed):
        network = start_revision(context, config)
        if not network.known:
            train_shared_(network, context, config, name="training")
            return finish_revision(network, context, config, strategy="lwf")
        teacher, groups = copy.deepcopy(network.model), _groups(network)
        with OutputDistillation(teacher, network.model, groups, temperature=config.temperature, weight=config.strength) as distillation:
            train_shared_(network, context, config, name="training with distillation", hooks=TrainingHooks(extra_loss=distillation))
        return finish_revision(network, context, config, strategy="lwf")


def _groups(network: SharedNetwork) -> list[tuple[int, ...]]:
    """Logits of earlier tasks that compete with one another."""
    if network.head.task_known:
        return list(network.head.rows.values())[:-1]
    return [tuple(range(network.known))]
