"""`finetune`: one network trained on each task as it comes, with nothing done against forgetting: the lower bound of continual learning.

    min over w of  CE(f_w(x), y)   on the data of task t, from the weights of task t - 1

Isolation `none`: every commit is a revision of the one network (`trainer/revision.py`); the plan's densities and units play no part.
"""

from __future__ import annotations

from tsn_toolkit.contracts import TaskResult
from tsn_toolkit.trainer.context import TaskContext
from tsn_toolkit.trainer.device import seeded
from tsn_toolkit.trainer.revision import SETTINGS, RevisionOptions, finish_revision, start_revision, train_shared_

__all__ = ["ISOLATION", "SETTINGS", "Config", "learn"]

ISOLATION = "none"


class Config(RevisionOptions):
    """Options of `strategy.options`: those of every revision, and no others."""


def learn(context: TaskContext, config: Config) -> TaskResult:
    """One task on top of the newest revision.

    Raises:
        RecipeError: as `start_revision`.
    """
    with seeded(context.seed):
        network = start_revision(context, config)
        train_shared_(network, context, config, name="fine-tuning")
        return finish_revision(network, context, config, strategy="finetune")
