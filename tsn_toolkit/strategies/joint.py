"""`joint`: one network trained on the data of all tasks so far together: the upper bound of methods that share one network.

    min over w of  CE(f_w(x), y)   on the union of the data of tasks 0..t

It breaks the rule of continual learning on purpose: earlier data are loaded again. Training continues from the newest revision, `training.epochs`
passes over the union for every task, so that R has a row per task. Isolation `none`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from tsn_toolkit.contracts import Split, TaskData, TaskResult
from tsn_toolkit.errors import RecipeError
from tsn_toolkit.trainer.context import TaskContext
from tsn_toolkit.trainer.device import seeded
from tsn_toolkit.trainer.loop import training_sample
from tsn_toolkit.trainer.revision import SETTINGS, RevisionOptions, as_logits, finish_revision, start_revision, train_shared_

__all__ = ["ISOLATION", "SETTINGS", "Config", "learn"]

ISOLATION = "none"

CALIBRATED = 64
"""Examples of every earlier task that activation ranges cover."""


class Config(RevisionOptions):
    """Options of `strategy.options`: those of every revision, and no others."""


def learn(context: TaskContext, config: Config) -> TaskResult:
    """One task on top of the newest revision, with the data of all tasks before it.

    Raises:
        RecipeError: as `start_revision`, or the earlier data are not to be had.
    """
    with seeded(context.seed):
        network = start_revision(context, config)
        earlier = context.earlier() if context.earlier is not None else ()
        missing = set(network.head.rows) - {data.name for data in (*earlier, context.data)}
        if missing:
            raise RecipeError(f"strategy `joint` trains on all tasks together, but the recipe gives no data of {sorted(missing)}. Name every task.")
        old = [as_logits(data, network.head) for data in earlier]
        together = replace(network, data=_union((*old, network.data)))
        train_shared_(together, context, config, name="joint training")
        seen = torch.cat([training_sample(data, CALIBRATED) for data in earlier]) if earlier else None
        return finish_revision(network, context, config, strategy="joint", replayed=seen)


def _union(tasks: Sequence[TaskData]) -> TaskData:
    """Training and validation examples of all tasks, whose labels are logits of one head; all else is the last task's."""
    splits = {
        name: Split(torch.cat([getattr(task, name).x for task in tasks]), torch.cat([getattr(task, name).y for task in tasks]))
        for name in ("train", "validation")
    }
    return replace(tasks[-1], **splits)
