"""Exact one-dimensional k-means without a random start, and the int8 codebooks fitted with it.

Start: the optimal partition of a fine histogram by dynamic programming, cost[m][j] = min_i cost[m-1][i] + sse(bins i..j-1). Up to `MAX_BINS` distinct
values each bin is one distinct value, and the start is already the optimum. Then Lloyd on the sorted values: boundaries are midpoints, means come
from prefix sums, so that one step costs O(k log n).
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tsn_toolkit.numerics.errors import NumericsError

MAX_BINS = 1024
_MAX_STEPS = 300
_INT8_MAX = 127


def kmeans_1d(values: ArrayLike, k: int) -> tuple[NDArray[np.float64], float]:
    """Splits values into `k` clusters that minimise the squared error; deterministic, independent of the order of `values`.

    Args:
        values: finite floats (n,).
        k: number of centroids, at least 1.

    Returns:
        centroids float64 (k,), ascending; the last one repeats when there are fewer distinct values than `k` (all 0 when there are no values).
        inertia: sum of squared distances to the nearest centroid.

    Raises:
        NumericsError: `k` is below 1 or a value is not finite.
    """
    if k < 1:
        raise NumericsError(f"the number of centroids must be at least 1, got {k}")
    ordered = np.sort(np.asarray(values, np.float64).reshape(-1))
    if not np.isfinite(ordered).all():
        raise NumericsError(f"values to cluster must be finite, got {ordered[~np.isfinite(ordered)][0]}")
    if ordered.size == 0:
        return np.zeros(k), 0.0
    distinct = np.unique(ordered)
    if len(distinct) <= k:
        return np.concatenate([distinct, np.full(k - len(distinct), distinct[-1])]), 0.0
    centroids = _lloyd(ordered, _histogram_start(ordered, distinct, k))
    nearest = centroids[_nearest(ordered, centroids)]
    return centroids, float(np.square(ordered - nearest).sum())


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
        centroids, _ = kmeans_1d(np.clip(np.asarray(values, np.float64), -max_code, max_code), entries)
        needed = np.unique(np.rint(centroids))
    return np.concatenate([needed, np.full(entries - len(needed), needed[-1])]).astype(np.int8)


def assign_codes(values: ArrayLike, codebook: NDArray[np.int8]) -> NDArray[np.uint8]:
    """Index of the nearest codebook entry for each value; a tie takes the lower index.

    Args:
        values: weights in units of q, floats of any shape.
        codebook: int8 (1..256,), ascending.

    Returns:
        uint8, shape of `values`.

    Raises:
        NumericsError: the codebook is empty or not ascending, or a value is not finite.
    """
    entries = codebook.astype(np.float64)
    if not 1 <= len(entries) <= 256 or (np.diff(entries) < 0).any():
        raise NumericsError(f"a codebook must hold 1..256 ascending entries, got {codebook.tolist()[:8]}")
    wide = np.asarray(values, np.float64)
    if not np.isfinite(wide).all():
        raise NumericsError(f"values to code must be finite, got {wide[~np.isfinite(wide)][0]}")
    distinct, first = np.unique(entries, return_index=True)
    return first[_nearest(wide, distinct)].astype(np.uint8)


def _nearest(values: NDArray[np.float64], centroids: NDArray[np.float64]) -> NDArray[np.intp]:
    """Index of the nearest of ascending centroids; a value on a midpoint goes to the lower one."""
    return np.searchsorted((centroids[:-1] + centroids[1:]) / 2, values, side="left")


def _histogram_start(ordered: NDArray[np.float64], distinct: NDArray[np.float64], k: int) -> NDArray[np.float64]:
    if len(distinct) <= MAX_BINS:
        bins = np.searchsorted(distinct, ordered)
    else:
        # Division before multiplication: the width of the range may overflow neither.
        fraction = (ordered - ordered[0]) / (ordered[-1] - ordered[0])
        bins = np.minimum((fraction * MAX_BINS).astype(np.int64), MAX_BINS - 1)
    counts = np.bincount(bins)
    centre = float(ordered.mean())  # shifted values keep the sums of squares from cancelling
    sums = np.bincount(bins, ordered - centre).astype(np.float64)
    squares = np.bincount(bins, np.square(ordered - centre)).astype(np.float64)
    occupied = counts > 0
    return centre + _optimal_means(counts[occupied].astype(np.float64), sums[occupied], squares[occupied], k)


def _optimal_means(
    counts: NDArray[np.float64], sums: NDArray[np.float64], squares: NDArray[np.float64], k: int
) -> NDArray[np.float64]:
    """Means of the best split of n ordered bins into at most k runs; exact dynamic program, O(k n^2)."""
    n = len(counts)
    k = min(k, n)
    count, total, square = (np.concatenate([[0.0], np.cumsum(column)]) for column in (counts, sums, squares))
    run_count = count[None, :] - count[:, None]
    run_total = total[None, :] - total[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        error = (square[None, :] - square[:, None]) - np.square(run_total) / run_count
    error = np.where(np.tri(n + 1, dtype=bool), np.inf, np.maximum(error, 0.0))  # error[i, j] of bins i..j-1, needs i < j
    best = error[0]
    choices = []
    for _ in range(1, k):
        candidates = best[:, None] + error
        choice = candidates.argmin(axis=0)
        choices.append(choice)
        best = candidates[choice, np.arange(n + 1)]
    edges = [n]
    for choice in reversed(choices):
        edges.append(int(choice[edges[-1]]))
    edges.append(0)
    borders = np.array(edges[::-1])
    means: NDArray[np.float64] = np.diff(total[borders]) / np.diff(count[borders])
    return means


def _lloyd(ordered: NDArray[np.float64], centroids: NDArray[np.float64]) -> NDArray[np.float64]:
    centre = float(ordered.mean())
    prefix = np.concatenate([[0.0], np.cumsum(ordered - centre)])
    borders = None
    for _ in range(_MAX_STEPS):
        inner = np.searchsorted(ordered, (centroids[:-1] + centroids[1:]) / 2, side="right")
        moved = np.concatenate([[0], inner, [len(ordered)]])
        if borders is not None and np.array_equal(moved, borders):
            break
        borders = moved
        sizes = np.diff(borders)
        means = centre + np.diff(prefix[borders]) / np.maximum(sizes, 1)
        centroids = np.maximum.accumulate(np.where(sizes > 0, means, centroids))
    return centroids
