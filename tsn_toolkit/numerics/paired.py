"""The mean difference of two lists of numbers of the same examples, with its standard error."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, sqrt

import numpy as np
from numpy.typing import ArrayLike

from tsn_toolkit.numerics.errors import NumericsError


@dataclass(frozen=True)
class PairedDifference:
    """after - before, example by example.

    Attributes:
        mean: over the examples.
        standard_error: of that mean; infinite for a single example, which says nothing about its own spread.
        count: number of examples.
    """

    mean: float
    standard_error: float
    count: int

    @property
    def upper(self) -> float:
        """One standard error above the mean: with a normal error, the true difference is below it five times in six."""
        return self.mean + self.standard_error

    def __str__(self) -> str:
        return f"{self.mean:+.4f} (standard error {self.standard_error:.4f})"


def paired_difference(after: ArrayLike, before: ArrayLike) -> PairedDifference:
    """Compares two measurements of the same examples.

    What an example contributes to both cancels, so that small changes of a model show on few examples.

    Args:
        after: floats (n,).
        before: floats (n,), the same examples in the same order.

    Raises:
        NumericsError: the lists are empty, of different lengths, or hold a value that is not finite.
    """
    new, old = (np.asarray(values, np.float64).reshape(-1) for values in (after, before))
    if not len(new) == len(old) > 0:
        raise NumericsError(f"a paired difference needs two equally long lists of at least one number, got {len(new)} and {len(old)}")
    difference = new - old
    if not np.isfinite(difference).all():
        raise NumericsError(f"numbers to compare must be finite, got a difference of {difference[~np.isfinite(difference)][0]}")
    error = float(difference.std(ddof=1)) / sqrt(len(difference)) if len(difference) > 1 else inf
    return PairedDifference(mean=float(difference.mean()), standard_error=error, count=len(difference))
