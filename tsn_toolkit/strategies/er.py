"""`er`: experience replay (Chaudhry et al., "On tiny episodic memories in continual learning", arXiv 1902.10486, 2019).

    loss = CE(f(x), y) + replay_weight * CE(f(x_b), y_b),   (x_b, y_b) drawn from a reservoir of earlier tasks' examples

Deviations: current and replayed examples pass the network in batches of their own, each with its own batch statistics, and the buffer holds earlier
tasks only; an example is offered to it once, at the end of its task (`trainer/replay.py`). Isolation `none`; the buffer's bytes count.
"""

from __future__ import annotations

from pydantic import Field

from tsn_toolkit.contracts import TaskResult
from tsn_toolkit.trainer.context import TaskContext
from tsn_toolkit.trainer.replay import ReplayOptions, learn_with_replay
from tsn_toolkit.trainer.revision import SETTINGS

__all__ = ["ISOLATION", "SETTINGS", "Config", "learn"]

ISOLATION = "none"


class Config(ReplayOptions):
    """Options of `strategy.options`.

    Attributes:
        replay_weight: factor of the replayed examples' loss.
    """

    replay_weight: float = Field(1.0, gt=0)


def learn(context: TaskContext, config: Config) -> TaskResult:
    """One task on top of the newest revision, with its buffer.

    Raises:
        RecipeError: as `start_revision`.
    """
    return learn_with_replay(context, config, strategy="er", labels=config.replay_weight, logits=0.0)
