"""`derpp`: DER++ (Buzzega et al., "Dark experience for general continual learning", NeurIPS 2020, arXiv 2004.07211).

    loss = CE(f(x), y) + alpha * mean (z(x_b) - z_b)^2 + beta * CE(f(x_c), y_c)

with two independent draws b and c from one reservoir of earlier tasks' examples. Deviations as in `der`. Isolation `none`; the buffer's bytes count.
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
        beta: factor of the cross entropy.
    """

    alpha: float = Field(0.1, gt=0)
    beta: float = Field(0.5, gt=0)


def learn(context: TaskContext, config: Config) -> TaskResult:
    """One task on top of the newest revision, with its buffer.

    Raises:
        RecipeError: as `start_revision`.
    """
    return learn_with_replay(context, config, strategy="derpp", labels=config.beta, logits=config.alpha)
