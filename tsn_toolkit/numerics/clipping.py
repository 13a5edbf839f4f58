"""Where to clip what is quantized with even steps: the step with the least squared error over a histogram of absolute values.

A value a becomes min(round(a / step), levels) * step. A small step clips the largest values, a large one rounds all of them coarsely; in between
lies the least mean squared error (for example Krishnamoorthi 2018, or the "MSE" range setting of Nagel et al., "A White Paper on Neural Network
Quantization", 2021). Several tensors that must share one step are counted together.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tsn_toolkit.numerics.errors import NumericsError

BINS = 2048
"""Bins of a histogram: eight for each of the levels of an unsigned 8-bit value."""
CANDIDATES = 400
"""Steps that are tried, evenly from the widest downwards."""


@dataclass(frozen=True)
class AbsoluteHistogram:
    """Absolute values of one tensor, counted in `len(counts)` bins of equal width from 0 to `largest`.

    Attributes:
        counts: float64 (bins,), at least 0.
        largest: upper end of the last bin, positive.
        levels: largest code, for example 127 for signed and 255 for unsigned 8-bit values.
    """

    counts: NDArray[np.float64]
    largest: float
    levels: float

    @property
    def centres(self) -> NDArray[np.float64]:
        """Middle of each bin, float64 (bins,)."""
        middles: NDArray[np.float64] = (np.arange(len(self.counts), dtype=np.float64) + 0.5) * (self.largest / len(self.counts))
        return middles


def count_absolute(values: ArrayLike, largest: float, levels: float) -> AbsoluteHistogram:
    """Counts absolute values in `BINS` bins from 0 to `largest`; what lies above counts in the last bin.

    Raises:
        NumericsError: `largest` is not a positive number, or a value is not finite.
    """
    if not 0 < largest < np.inf:
        raise NumericsError(f"a histogram needs a positive largest value, got {largest}")
    absolute = np.abs(np.asarray(values, np.float64).reshape(-1))
    if not np.isfinite(absolute).all():
        raise NumericsError("values to count must be finite")
    counts, _ = np.histogram(np.minimum(absolute, largest), bins=BINS, range=(0.0, largest))
    return AbsoluteHistogram(counts.astype(np.float64), largest, levels)


def least_error_step(histograms: Sequence[AbsoluteHistogram]) -> float:
    """The step with the least squared error, summed over all tensors; of equal ones the widest.

    No step is wider than the one that clips nothing in any tensor.

    Raises:
        NumericsError: there is no histogram, or none holds a value.
    """
    if not histograms or not any(histogram.counts.any() for histogram in histograms):
        raise NumericsError("a step needs at least one histogram that holds a value")
    widest = max(histogram.largest / histogram.levels for histogram in histograms)
    steps: NDArray[np.float64] = widest * np.arange(CANDIDATES, 0, -1, dtype=np.float64) / CANDIDATES
    errors = np.sum([squared_errors(histogram, steps) for histogram in histograms], axis=0)
    return float(steps[int(np.argmin(errors))])


def squared_errors(histogram: AbsoluteHistogram, steps: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sum of squared quantization errors of the counted values for each step: float64 (steps,)."""
    centres = histogram.centres
    codes = np.minimum(np.rint(centres / steps[:, None]), histogram.levels)
    errors: NDArray[np.float64] = np.square(codes * steps[:, None] - centres) @ histogram.counts
    return errors
