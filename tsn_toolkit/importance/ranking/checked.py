"""Scores checked against the model that they are for."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from tsn_toolkit.errors import PlanError

Scores = Mapping[str, NDArray[np.float64]]


def checked_scores(scores: Scores, shapes: Mapping[str, tuple[int, ...]], what: str) -> dict[str, NDArray[np.float64]]:
    """The scores of all that is ranked, as float64.

    Args:
        scores: name -> scores.
        shapes: name -> shape that the scores must have; other scores are left out.
        what: a name is of, `group` or `layer`.

    Raises:
        PlanError: if they are missing, have another shape or are not finite.
    """
    checked = {}
    for name, shape in shapes.items():
        if name not in scores:
            raise PlanError(f"Scores of {what} `{name}` are missing, given are {', '.join(scores) or 'none'}. Score the model that was traced.")
        values = np.asarray(scores[name], dtype=np.float64)
        if values.shape != tuple(shape):
            raise PlanError(f"Scores of {what} `{name}` must have shape {tuple(shape)}, got {values.shape}. Score the model that was traced.")
        if not np.isfinite(values).all():
            place = int(np.flatnonzero(~np.isfinite(values))[0])
            raise PlanError(
                f"Scores of {what} `{name}` must be finite, got {values.flat[place]} at entry {place}. Check the scoring "
                "data, or train the scored network with a lower `training.learning_rate`."
            )
        checked[name] = values
    return checked
