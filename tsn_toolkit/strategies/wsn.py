"""`wsn`: winning subnetworks (Kang et al., "Forget-free continual learning with winning subnetworks", ICML 2022).

    w_t = m_t * w,   m_t = 1 at the density's largest |s|;   dL/d|s| = dL/dw_t * w,   dL/dw = m_t * dL/dw_t where no earlier task used the slot

Weights and scores train together; a slot that an earlier task used is read and never written. The selected epoch's mask is the one that is stored.

Value precision: the store holds integers, so own weights are rounded after training to 8 bits with one scale per output channel (all integers within
the largest code, no codebook is fitted). The bytes that are reported are those: 8 bits per own slot before entropy coding, not the paper's 32.

Deviations: scores start at |w|, where inherited weights are larger than fresh ones, since a store keeps no scores of earlier tasks; masks are
refreshed every `refresh_every` steps and not at each forward pass; norms and biases are each task's own. Isolation `exact`.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from tsn_toolkit.contracts import TaskResult
from tsn_toolkit.parts.own_slots import start_scores_
from tsn_toolkit.trainer.context import TaskContext, starting_model
from tsn_toolkit.trainer.device import seeded
from tsn_toolkit.trainer.finish_task import finish_task
from tsn_toolkit.trainer.loop import Phase
from tsn_toolkit.trainer.select_layers import fit_selected_, fix_codes_, require_free_slots, select_layers

ISOLATION = "exact"
SETTINGS = ("task-incremental", "domain-incremental", "class-incremental")  # the last two by `task_inference`


class Config(BaseModel):
    """Options of `strategy.options`; the density is the plan's.

    Attributes:
        score_rate: learning rate of scores relative to weights.
        refresh_every: steps between exact refreshes of the masks.
        bit_width: bits per own weight.
        calibration_batches: training batches for norms and activation ranges.
        min_gain: smallest gain of a foldable norm; keeps folded integers as they are.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    score_rate: float = Field(1.0, gt=0)
    refresh_every: int = Field(1, ge=1)
    bit_width: int = Field(8, ge=1, le=8)
    calibration_batches: int = Field(16, ge=1)
    min_gain: float = Field(1e-3, gt=0)


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
        phase = Phase("weights and scores", context.epochs, context.learning_rate, "hill", select_best=True)
        fit_selected_(
            small.model,
            context,
            phase,
            context.generator(),
            score_rate=config.score_rate,
            refresh_every=config.refresh_every,
            min_gain=config.min_gain,
        )
        fix_codes_(small.model, context)
        return finish_task(small, model, {}, context, strategy="wsn", calibration_batches=config.calibration_batches, reestimate=True)
