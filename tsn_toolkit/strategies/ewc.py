"""`ewc`: elastic weight consolidation (Kirkpatrick et al., PNAS 2017), one running importance for all tasks (online, Schwarz et al., ICML 2018).

    loss = CE(f_w(x), y) + strength / 2 * sum_i F_i (w_i - w*_i)^2
    F <- decay * F + F_t,   F_t the diagonal Fisher information of the finished task, divided by its mean

w* are the weights of the newest revision, in its stored integers; F lies in the memory of a revision, and its bytes count. Deviations: the
parameters of norms are not held, and strength * F is limited so that steps do not overshoot (`trainer/weight_anchor.py`). Isolation `none`.
"""

from __future__ import annotations

from tsn_toolkit.contracts import TaskResult
from tsn_toolkit.trainer.context import TaskContext
from tsn_toolkit.trainer.device import seeded
from tsn_toolkit.trainer.revision import SETTINGS, finish_revision, start_revision, train_shared_
from tsn_toolkit.trainer.training_hooks import TrainingHooks
from tsn_toolkit.trainer.weight_anchor import PenaltyOptions, WeightAnchor

__all__ = ["ISOLATION", "SETTINGS", "Config", "learn"]

ISOLATION = "none"


class Config(PenaltyOptions):
    """Options of `strategy.options`: those of the penalty and of every revision, and no others."""


def learn(context: TaskContext, config: Config) -> TaskResult:
    """One task on top of the newest revision, held by the importance of its weights.

    Raises:
        RecipeError: as `start_revision`.
    """
    with seeded(context.seed):
        network = start_revision(context, config)
        anchor = WeightAnchor(network, context, config)
        hooks = TrainingHooks(extra_loss=(lambda _: anchor.penalty()) if anchor.holds else None)
        train_shared_(network, context, config, name="training with a penalty", hooks=hooks)
        return finish_revision(network, context, config, strategy="ewc", remember=anchor.remember)
