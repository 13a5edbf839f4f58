"""Numbers of the accuracy matrix R.

R[t, i] is the accuracy on task i after task t was committed, 0-based; entries above the diagonal (task i not yet committed) may be None.

    acc            = mean_i R[T-1, i]
    bwt            = mean_{i < T-1} (R[T-1, i] - R[i, i])
    fwt            = mean_{i >= 1} (R[i-1, i] - b[i])        where the strategy predicts for unseen tasks; else None
    max_forgetting = mean_i (max_t R[t, i] - R[T-1, i])      over the t where task i was measured
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class ContinualMetrics:
    """The four numbers of an accuracy matrix, fractions; None where they are not defined."""

    acc: float
    bwt: float | None
    fwt: float | None
    max_forgetting: float


def continual_metrics(rows: Sequence[Sequence[float | None]], baseline: Sequence[float] | None = None) -> ContinualMetrics:
    """The numbers of an accuracy matrix.

    Args:
        rows: R, T rows of T accuracies in [0, 1]; None where a task was not measured (above the diagonal).
        baseline: b[i], accuracy on task i of a model that has learned nothing, T values; None: fwt is None.

    Returns:
        The four numbers; bwt and fwt are None at T = 1; fwt is also None without `baseline` or where R[i-1, i] was not measured.

    >>> continual_metrics([[0.9, None], [0.8, 1.0]]).acc
    0.9
    """
    count = len(rows)
    assert count > 0 and all(len(row) == count for row in rows), f"R must be square and not empty, got rows of {[len(row) for row in rows]}"
    last = [_measured(rows, count - 1, task) for task in range(count)]
    diagonal = [_measured(rows, task, task) for task in range(count)]
    best = [max(value for value in (row[task] for row in rows) if value is not None) for task in range(count)]
    bwt = _mean([last[task] - diagonal[task] for task in range(count - 1)]) if count > 1 else None
    return ContinualMetrics(
        acc=_mean(last),
        bwt=bwt,
        fwt=_forward_transfer(rows, baseline),
        max_forgetting=_mean([best[task] - last[task] for task in range(count)]),
    )


def _forward_transfer(rows: Sequence[Sequence[float | None]], baseline: Sequence[float] | None) -> float | None:
    unseen = [rows[task - 1][task] for task in range(1, len(rows))]
    if baseline is None or not unseen:
        return None
    assert len(baseline) == len(rows), f"{len(baseline)} baselines for {len(rows)} tasks"
    gains = [value - baseline[task] for task, value in enumerate(unseen, start=1) if value is not None]
    return _mean(gains) if len(gains) == len(unseen) else None


def _measured(rows: Sequence[Sequence[float | None]], after: int, task: int) -> float:
    value = rows[after][task]
    assert value is not None, f"R[{after}, {task}] was not measured"
    return value


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
