"""The best split of ordered bins into runs, by dynamic programming.

cost[m][j] = min_i cost[m-1][i] + sse(bins i..j-1). The best i never falls as j grows, because the squared error satisfies the quadrangle inequality
(F. F. Yao, "Efficient dynamic programming using quadrangle inequalities", STOC 1980). So the last column of each block of `_BLOCK` columns is solved
over all i first, and the others only between the answers of two neighbouring blocks: O(k n sqrt(n)) instead of O(k n^2).
"""

import numpy as np
from numpy.typing import NDArray

_BLOCK = 32


def best_split(counts: NDArray[np.float64], sums: NDArray[np.float64], squares: NDArray[np.float64], runs: int) -> NDArray[np.intp]:
    """Splits n ordered bins into runs with the least sum of squared distances to each run's own mean.

    Args:
        counts, sums, squares: float64 (n,): how many values each bin holds (at least 1), their sum and their sum of squares.
        runs: 1..n.

    Returns:
        borders (runs + 1,), ascending from 0 to n; run r holds the bins borders[r]..borders[r+1]-1.
    """
    prefixes = [np.concatenate([[0.0], np.cumsum(column)]) for column in (counts, sums, squares)]
    blocks = [_errors(prefixes, first, min(first + _BLOCK, len(counts) + 1)) for first in range(0, len(counts) + 1, _BLOCK)]
    last_rows = np.full((len(blocks), len(counts) + 1), np.inf)
    for row, block in zip(last_rows, blocks, strict=True):
        row[: block.shape[1]] = block[-1]
    best = np.concatenate([block[:, 0] for block in blocks])
    choices = []
    for _ in range(1, runs):
        choice, best = _add_run(blocks, last_rows, best)
        choices.append(choice)
    borders = [len(counts)]
    for choice in reversed(choices):
        borders.append(int(choice[borders[-1]]))
    return np.array([0, *reversed(borders)])


def _errors(prefixes: list[NDArray[np.float64]], first: int, end: int) -> NDArray[np.float64]:
    """error[j - first, i] of the bins i..j-1 as one run, for j in first..end-1 and i in 0..end-1; infinite where i >= j."""
    count, total, square = prefixes
    error = total[first:end, None] - total[:end]
    np.square(error, out=error)
    with np.errstate(divide="ignore", invalid="ignore"):
        error /= count[first:end, None] - count[:end]
    np.subtract(square[first:end, None] - square[:end], error, out=error)
    np.maximum(error, 0.0, out=error)
    error[:, first:][np.triu_indices(end - first)] = np.inf
    return error


def _add_run(
    blocks: list[NDArray[np.float64]], last_rows: NDArray[np.float64], best: NDArray[np.float64]
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """One more run: where it begins and the least cost, for each number of bins 0..n."""
    limits = (last_rows + best).argmin(axis=1).tolist()
    choice, cost = np.empty(len(best), np.intp), np.empty(len(best))
    low, first = 0, 0
    for block, high in zip(blocks, limits, strict=True):
        candidates = block[:, low : high + 1] + best[low : high + 1]
        rows = slice(first, first + len(block))
        nearest = candidates.argmin(axis=1)
        choice[rows] = nearest + low
        cost[rows] = candidates[np.arange(len(block)), nearest]
        low, first = high, first + len(block)
    return choice, cost
