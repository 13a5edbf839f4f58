"""Options that all strategies have; a strategy's `Config` adds its own, and so do the parts of the trainer that several strategies use."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class StrategyOptions(BaseModel):
    """Options that every strategy has.

    Attributes:
        calibration_batches: training batches for norms and activation ranges.
        min_gain: smallest gain of a foldable norm; keeps folded integers as they are.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    calibration_batches: int = Field(16, ge=1)
    min_gain: float = Field(1e-3, gt=0)
