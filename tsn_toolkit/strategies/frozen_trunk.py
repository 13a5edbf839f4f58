"""`frozen_trunk`: the baseline that shares everything. Every layer is the trunk's as it is; a task trains its head, and its norms if asked.

The transfer baseline called "frozen backbone" or "linear probing" in the literature: nothing about earlier tasks can change, and a task costs its
head (and two vectors per norm). A method that stores more per task has to beat it at equal bytes.
"""

from __future__ import annotations

from tsn_toolkit.contracts import TaskResult
from tsn_toolkit.errors import RecipeError
from tsn_toolkit.filling import NORM_TYPES
from tsn_toolkit.graph.shrink import shrink
from tsn_toolkit.trainer.context import TaskContext, starting_model
from tsn_toolkit.trainer.device import seeded
from tsn_toolkit.trainer.finish_task import finish_task
from tsn_toolkit.trainer.loop import Phase, fit
from tsn_toolkit.trainer.positive_gains import with_positive_gains
from tsn_toolkit.trainer.strategy_options import StrategyOptions
from tsn_toolkit.trainer.training_hooks import PLAIN

ISOLATION = "exact"
SETTINGS = ("task-incremental", "domain-incremental", "class-incremental")  # the last two by `task_inference`


class Config(StrategyOptions):
    """Options of `strategy.options`.

    Attributes:
        norms: train the norms too; otherwise they stay the trunk's.
    """

    norms: bool = False


def learn(context: TaskContext, config: Config) -> TaskResult:
    """One task: its head (and norms) over the trunk's integers.

    Raises:
        RecipeError: the trunk is a seed, so there is nothing to share.
    """
    if context.start is None or context.parent != "trunk":
        raise RecipeError(
            "strategy `frozen_trunk` needs a trained trunk as parent. Set `trunk.kind: checkpoint`, `model.checkpoint` and `parent: trunk`."
        )
    with seeded(context.seed):
        model = starting_model(context)
        head = model.get_submodule(context.graph.head)
        vectors = [p for module in model.modules() if config.norms and isinstance(module, NORM_TYPES) for p in module.parameters()]
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        trained = [*head.parameters(), *vectors]
        for parameter in trained:
            parameter.requires_grad_(True)
        phase = Phase("head", context.epochs, context.learning_rate, "hill", select_best=True)
        generator = context.generator()
        fit(
            model,
            context.data,
            phase,
            context.settings,
            parameters=[{"params": trained}],
            generator=generator,
            progress=context.progress,
            train_norms=config.norms,
            hooks=with_positive_gains(PLAIN, model, context.graph, config.min_gain) if config.norms else PLAIN,
        )
        small = shrink(model.cpu().eval(), context.graph, {})
        return finish_task(
            small, model, {}, context, strategy="frozen_trunk", calibration_batches=config.calibration_batches, reestimate=config.norms
        )
