"""`wsn`: winning subnetworks (Kang et al., "Forget-free continual learning with winning subnetworks", ICML 2022).

    w_t = m_t * w,   m_t = 1 at the density's largest |s|;   dL/d|s| = dL/dw_t * w,   dL/dw = m_t * dL/dw_t where no earlier task used the slot

Weights and scores train together; a slot that an earlier task used is read and never written. The selected epoch's mask is the one that is stored.

Value precision: the store holds integers, so own weights are rounded after training to 8 bits with one scale per output channel (all integers within
the largest code, no codebook is fitted). The bytes that are reported are those: 8 bits per own slot before entropy coding, not the paper's 32.

Deviations: scores start at |w|, where inherited weights are larger than fresh ones, since a store keeps no scores of earlier tasks; masks are
refreshed every `refresh_every` steps and not at each forward pass; norms and biases are each task's own. Isolation `exact`.
"""

from __future__ import annotations

from pydantic import Field

from tsn_toolkit.contracts import TaskResult
from tsn_toolkit.parts.own_slots import start_scores_
from tsn_toolkit.trainer.context import TaskContext, starting_model
from tsn_toolkit.trainer.device import seeded
from tsn_toolkit.trainer.finish_task import finish_task
from tsn_toolkit.trainer.fit_selected import ScoredOptions, fit_scored_
from tsn_toolkit.trainer.select_layers import fix_codes_, require_free_slots, select_layers

ISOLATION = "exact"
SETTINGS = ("task-incremental", "domain-incremental", "class-incremental")  # the last two by `task_inference`


class Config(ScoredOptions):
    """Options of `strategy.options`.

    Attributes:
        bit_width: bits per own weight.
    """

    bit_width: int = Field(8, ge=1, le=8)


def learn(context: TaskContext, config: Config) -> TaskResult:
    """One task's subnetwork over the slots of all tasks before it.

    Raises:
        RecipeError: the trunk owns every slot.
    """
    require_free_slots(context, "wsn")
    with seeded(context.seed):
        model = starting_model(context)
        small = select_layers(model, context, bit_width=config.bit_width)
        start_scores_(small.model)
        fit_scored_(small.model, context, config, name="weights and scores")
        fix_codes_(small.model, context)
        return finish_task(small, model, {}, context, strategy="wsn", calibration_batches=config.calibration_batches, reestimate=True)
