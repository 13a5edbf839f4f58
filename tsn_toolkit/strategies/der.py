"""`der`: dark experience replay (Buzzega et al., "Dark experience for general continual learning", NeurIPS 2020, arXiv 2004.07211).

    loss = CE(f(x), y) + alpha * mean (z(x_b) - z_b)^2,   x_b with its stored logits z_b drawn from a reservoir of earlier tasks' examples

Deviations: stored logits are those of the finished task in its stored integers, as 16-bit floats, not those of a step on the way; logits that the
network did not have then, or that do not compete for the example, do not count; further as in `er`. Isolation `none`; the buffer's bytes count.
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
        alpha: factor of the distance to stored logits.
    """

    alpha: float = Field(0.3, gt=0)


def learn(context: TaskContext, config: Config) -> TaskResult:
    """One task on top of the newest revision, with its buffer.

    Raises:
        RecipeError: as `start_revision`.
    """
    return learn_with_replay(context, config, strategy="der", labels=0.0, logits=config.alpha)
