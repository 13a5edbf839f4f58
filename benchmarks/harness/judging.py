"""Whether a number measured over a few seeds lies on one side of a limit: by its 95 % interval, not by its mean."""

from __future__ import annotations

import math
from typing import Literal

from harness.statistics import Spread

Outcome = Literal["holds", "not distinguishable", "does not hold"]

OUTCOMES: tuple[Outcome, ...] = ("holds", "not distinguishable", "does not hold")
"""From what bears a claim out to what speaks against it."""

SEEDS = 3
"""Fewer settle no claim; they are judged by their mean."""

STUDENT_T = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622)
"""Two-sided 95 % of Student's t for 1, 2, ... degrees of freedom; the last one, for more, makes an interval wider than it need be."""

HOW_IT_IS_JUDGED = (
    "Numbers of two variants are compared seed by seed. The interval of a number is its mean ± t · deviation / √seeds, with Student's t for 95 %, "
    f"two-sided. `{OUTCOMES[0]}`: the whole interval lies on the claim's side of its limit (equality, or the margin that it names); `{OUTCOMES[2]}`: "
    f"all of it on the other side; `{OUTCOMES[1]}`: the limit lies inside. Fewer than {SEEDS} seeds are judged by their mean, with `so far`. Of "
    "several variants that a claim is about, the one that speaks most against it is shown. For the front, a point of `tsn` is compared with the "
    "most accurate point of other methods that has at most its bytes; one such point, or one smaller than all others, is enough. That nothing is "
    "forgotten is judged on every single run. Each claim is judged for itself: of many, some come out by chance."
)


def interval(value: Spread) -> tuple[float, float]:
    """The two ends of the 95 % interval of at least two measurements."""
    assert value.deviation is not None, value
    half = STUDENT_T[min(value.count - 1, len(STUDENT_T)) - 1] * value.deviation / math.sqrt(value.count)
    return value.mean - half, value.mean + half


def is_above(value: Spread, limit: float) -> Outcome:
    """Whether a number is larger than a limit.

    >>> is_above(Spread(0.07, 0.70, 3), 0.0), is_above(Spread(1.27, 0.37, 3), 0.0), is_above(Spread(0.07, 0.70, 2), 0.0)
    ('not distinguishable', 'holds', 'holds')
    """
    if value.count < SEEDS:
        return "holds" if value.mean > limit else "does not hold"
    low, high = interval(value)
    return "holds" if low > limit else "does not hold" if high < limit else "not distinguishable"


def is_below(value: Spread, limit: float) -> Outcome:
    """Whether a number is smaller than a limit."""
    return is_above(value.times(-1.0), -limit)
