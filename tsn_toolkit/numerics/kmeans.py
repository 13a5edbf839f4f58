"""Exact one-dimensional k-means without a random start, and the int8 codebooks fitted with it.

Start: the optimal split of a fine histogram (`best_split`). Up to `MAX_BINS` distinct values each bin is one distinct value, and the start is already
the optimum. Above, half of the bins are equally wide and half equally full, so that neither far outliers nor a narrow peak leave too few of them.
Then Lloyd on the sorted values: boundaries are midpoints, means come from prefix sums, so that one step costs O(k log n).
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tsn_toolkit.numerics.errors import NumericsError
from tsn_toolkit.numerics.split import best_split

MAX_BINS = 1024
MAX_CENTROIDS = 256
_MAX_STEPS = 300
_INT8_MAX = 127
_LARGEST = 1e100  # squares of larger values, summed up, could overflow

Floats = NDArray[np.floating[Any]]


def kmeans_1d(values: ArrayLike, k: int) -> tuple[NDArray[np.float64], float]:
    """Splits values into `k` clusters that minimise the squared error; deterministic, independent of the order of `values`.

    Args:
        values: finite floats (n,); float32 values are sorted as such, which is faster, and all sums are float64.
        k: number of centroids, 1..256.

    Returns:
        centroids float64 (k,), ascending; the last one repeats when there are fewer distinct values than `k` (all 0 when there are no values).
        inertia: sum of squared distances to the nearest centroid.

    Raises:
        NumericsError: `k` is out of range, or a value is not finite or beyond 1e100.
    """
    if not 1 <= k <= MAX_CENTROIDS:
        raise NumericsError(f"the number of centroids must be 1..{MAX_CENTROIDS}, got {k}")
    ordered: Floats = np.sort(_as_floats(values).reshape(-1))
    if ordered.size == 0:
        return np.zeros(k), 0.0
    for end in float(ordered[0]), float(ordered[-1]):  # NaN sorts to the end
        if not abs(end) <= _LARGEST:
            raise NumericsError(f"values to cluster must be finite and at most {_LARGEST} in size, got {end}")
    changes = ordered[1:] != ordered[:-1]
    if np.count_nonzero(changes) < k:
        distinct = ordered[np.append(0, np.flatnonzero(changes) + 1)].astype(np.float64)
        return np.concatenate([distinct, np.full(k - len(distinct), distinct[-1])]), 0.0
    sums = _SortedSums(ordered)
    centroids = _lloyd(sums, _start(sums, _bin_borders(ordered, changes), k))
    return centroids, _inertia(ordered, centroids)


def fit_codebook(values: ArrayLike, bit_width: int, max_code: int) -> NDArray[np.int8]:
    """Fits the sorted int8 codebook of one layer's own weights.

    Args:
        values: weights in units of q (w / scale), floats (n,).
        bit_width: bits per code, 0..8; 0 gives an empty codebook.
        max_code: largest |entry|, 1..127.

    Returns:
        int8 (2**bit_width,), ascending, entries in [-max_code, max_code]; entries that no value needs repeat the last one.

    Raises:
        NumericsError: `bit_width` or `max_code` is out of range, or a value is not finite.
    """
    if not 0 <= bit_width <= 8:
        raise NumericsError(f"bit width of a codebook must be 0..8, got {bit_width}")
    if not 1 <= max_code <= _INT8_MAX:
        raise NumericsError(f"largest code must be 1..{_INT8_MAX}, got {max_code}")
    if bit_width == 0:
        return np.zeros(0, np.int8)
    entries = 1 << bit_width
    if entries >= 2 * max_code + 1:  # one entry per integer: nothing to fit
        needed = np.arange(-max_code, max_code + 1)
    else:
        centroids, _ = kmeans_1d(np.clip(_as_floats(values), -max_code, max_code), entries)
        needed = np.unique(np.rint(centroids))
    return np.concatenate([needed, np.full(entries - len(needed), needed[-1])]).astype(np.int8)


def assign_codes(values: ArrayLike, codebook: NDArray[np.int8]) -> NDArray[np.uint8]:
    """Index of the nearest codebook entry for each value; a tie takes the lower index.

    Midpoints of integers are multiples of 1/2, so the answer depends on ceil(2 * value) alone and is looked up.

    Args:
        values: weights in units of q, floats of any shape.
        codebook: int8 (1..256,), ascending.

    Returns:
        uint8, shape of `values`.

    Raises:
        NumericsError: the codebook is empty or not ascending, or a value is not finite.
    """
    entries = codebook.astype(np.int64)
    if not 1 <= len(entries) <= 256 or (np.diff(entries) < 0).any():
        raise NumericsError(f"a codebook must hold 1..256 ascending entries, got {codebook.tolist()[:8]}")
    floats = _as_floats(values)
    if not np.isfinite(floats).all():
        raise NumericsError(f"values to code must be finite, got {floats[~np.isfinite(floats)][0]}")
    distinct, first = np.unique(entries, return_index=True)
    reach = 2 * (_INT8_MAX + 1)
    doubled_midpoints = distinct[:-1] + distinct[1:]
    table = first[np.searchsorted(doubled_midpoints, np.arange(-reach, reach + 1), side="left")].astype(np.uint8)
    halves = np.ceil(2 * np.clip(floats, -reach / 2, reach / 2)).astype(np.int16)
    codes: NDArray[np.uint8] = table[halves + reach]
    return codes


class _SortedSums:
    """Sums and sums of squares over any range of sorted values, shifted by their mean so that nothing cancels.

    Whole blocks of `BLOCK` values are summed up once; a query adds the rest of one block.
    """

    BLOCK = 128
    _CHUNK = 256 * BLOCK  # values that are widened to float64 at a time

    def __init__(self, ordered: Floats) -> None:
        self.ordered = ordered
        self.centre = float(ordered.mean(dtype=np.float64))
        whole = len(ordered) // self.BLOCK
        totals = np.zeros((2, whole + 1))
        for start in range(0, whole * self.BLOCK, self._CHUNK):
            chunk = self._shifted(ordered[start : min(start + self._CHUNK, whole * self.BLOCK)]).reshape(-1, self.BLOCK)
            blocks = slice(start // self.BLOCK + 1, start // self.BLOCK + 1 + len(chunk))
            totals[0, blocks] = chunk.sum(axis=1)
            totals[1, blocks] = np.square(chunk, out=chunk).sum(axis=1)
        self._before = np.cumsum(totals, axis=1)

    def first(self, borders: NDArray[np.intp]) -> NDArray[np.float64]:
        """Sum of the shifted values before each border."""
        total: NDArray[np.float64] = self._before[0, borders // self.BLOCK] + self._rest(borders).sum(axis=1)
        return total

    def second(self, borders: NDArray[np.intp]) -> NDArray[np.float64]:
        """Sum of the squared shifted values before each border."""
        total: NDArray[np.float64] = self._before[1, borders // self.BLOCK] + np.square(self._rest(borders)).sum(axis=1)
        return total

    def _rest(self, borders: NDArray[np.intp]) -> NDArray[np.float64]:
        """Shifted values between the last whole block and each border, 0 beyond it: (borders, BLOCK)."""
        places = (borders // self.BLOCK * self.BLOCK)[:, None] + np.arange(self.BLOCK)
        values = self._shifted(self.ordered.take(places, mode="clip"))
        values[places >= borders[:, None]] = 0.0
        return values

    def _shifted(self, values: Floats) -> NDArray[np.float64]:
        return np.subtract(values, self.centre, dtype=np.float64)


def _as_floats(values: ArrayLike) -> Floats:
    array = np.asarray(values)
    return array if array.dtype == np.float32 else array.astype(np.float64)


def _bin_borders(ordered: Floats, changes: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Borders of the histogram's bins as positions in the sorted values, 0 and n included; equal values share a bin, no bin is empty."""
    if np.count_nonzero(changes) < MAX_BINS:
        inner = np.flatnonzero(changes) + 1
    else:
        half = MAX_BINS // 2
        levels = np.linspace(float(ordered[0]), float(ordered[-1]), half + 1)[1:-1]
        full = ordered[np.arange(1, half) * len(ordered) // half]
        inner = _places(ordered, np.concatenate([levels, full.astype(np.float64)]), side="left")
        if len(np.unique(inner)) < half:  # most values are equal: count each distinct value once
            starts = np.flatnonzero(changes) + 1
            inner = np.append(inner, starts[np.arange(half) * len(starts) // half])
    return np.unique(np.concatenate([[0], inner, [len(ordered)]]))


def _start(sums: _SortedSums, borders: NDArray[np.intp], k: int) -> NDArray[np.float64]:
    first, counts = sums.first(borders), np.diff(borders).astype(np.float64)
    runs = borders[best_split(counts, np.diff(first), np.diff(sums.second(borders)), k)]
    means: NDArray[np.float64] = sums.centre + np.diff(sums.first(runs)) / np.diff(runs)
    return means


def _lloyd(sums: _SortedSums, centroids: NDArray[np.float64]) -> NDArray[np.float64]:
    borders = np.zeros(0, np.intp)
    for _ in range(_MAX_STEPS):
        moved = _cluster_borders(sums.ordered, centroids)
        if np.array_equal(moved, borders):
            break
        borders = moved
        sizes = np.diff(borders)
        means = sums.centre + np.diff(sums.first(borders)) / np.maximum(sizes, 1)
        centroids = np.maximum.accumulate(np.where(sizes > 0, means, centroids))
    return centroids


def _cluster_borders(ordered: Floats, centroids: NDArray[np.float64]) -> NDArray[np.intp]:
    """Where each cluster begins in the sorted values, and n; a value on a midpoint goes to the lower cluster."""
    inner = _places(ordered, (centroids[:-1] + centroids[1:]) / 2, side="right")
    return np.concatenate([[0], inner, [len(ordered)]])


def _places(ordered: Floats, levels: NDArray[np.float64], *, side: str) -> NDArray[np.intp]:
    """Where float64 levels belong in sorted values, which are not widened: behind all values <= level (`right`) or before all >= level (`left`)."""
    rounded: Floats = levels.astype(ordered.dtype)
    if side == "right":
        above = rounded > levels
        rounded[above] = np.nextafter(rounded[above], ordered.dtype.type(-np.inf))
        return ordered.searchsorted(rounded, side="right")
    below = rounded < levels
    rounded[below] = np.nextafter(rounded[below], ordered.dtype.type(np.inf))
    return ordered.searchsorted(rounded, side="left")


def _inertia(ordered: Floats, centroids: NDArray[np.float64]) -> float:
    chunk = 1 << 16
    borders = _cluster_borders(ordered, centroids).tolist()
    total = 0.0
    for centroid, start, end in zip(centroids, borders, borders[1:]):
        for first in range(start, end, chunk):
            total += float(np.square(np.subtract(ordered[first : min(first + chunk, end)], centroid, dtype=np.float64)).sum())
    return total
