"""Scores of different layers brought to one scale before they are ranked together."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from tsn_toolkit.errors import PlanError
from tsn_toolkit.registry import did_you_mean

NORMALISATIONS = ("none", "mean", "l2")


def normalise(scores: Mapping[str, NDArray[np.float64]], how: str) -> dict[str, NDArray[np.float64]]:
    """Every array divided by a number of its own; the order inside an array stays.

    Args:
        scores: name -> finite scores, any shape.
        how: `none`, `mean` (mean absolute value) or `l2` (square root of the sum of squares). An array of zeros stays as it is.

    Raises:
        PlanError: if `how` is none of these.

    >>> normalise({"a": np.array([1.0, 3.0])}, "mean")["a"].tolist()
    [0.5, 1.5]
    """
    if how not in NORMALISATIONS:
        raise PlanError(f"`normalise` must be one of {', '.join(NORMALISATIONS)}, got {how!r}{did_you_mean(how, NORMALISATIONS)}. Use one of these.")
    return {name: np.asarray(values, dtype=np.float64) / _divisor(values, how) for name, values in scores.items()}


def _divisor(values: NDArray[np.float64], how: str) -> float:
    if how == "none" or not values.size:
        return 1.0
    size = np.abs(values).mean() if how == "mean" else np.linalg.norm(values)
    return float(size) or 1.0
