"""Means and deviations over seeds, and the front of accuracy against bytes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.results import Line


@dataclass(frozen=True)
class Spread:
    """Several measurements of one number.

    Attributes:
        mean: arithmetic mean.
        deviation: of the sample (n - 1); None for a single measurement.
    """

    mean: float
    deviation: float | None

    def text(self, digits: int) -> str:
        """`70.1 ± 0.4`, or the mean alone."""
        mean = f"{self.mean:,.{digits}f}"
        return mean if self.deviation is None else f"{mean} ± {self.deviation:,.{digits}f}"


def spread(values: Sequence[float]) -> Spread:
    """Mean and sample deviation of at least one value.

    >>> spread([1.0, 3.0])
    Spread(mean=2.0, deviation=1.4142135623730951)
    """
    middle = mean(values)
    if len(values) == 1:
        return Spread(middle, None)
    return Spread(middle, math.sqrt(math.fsum((value - middle) ** 2 for value in values) / (len(values) - 1)))


def mean(values: Sequence[float]) -> float:
    """Arithmetic mean of at least one value."""
    return math.fsum(values) / len(values)


def paired_difference(lines: Sequence[Line], base: Sequence[Line], key: str) -> Spread | None:
    """Spread of `lines` minus `base` over the seeds that both have; None where they share none."""
    of_seed = {line["seed"]: line[key] for line in base}
    differences = [line[key] - of_seed[line["seed"]] for line in lines if line["seed"] in of_seed]
    return spread(differences) if differences else None


def added_bytes(line: Line) -> float:
    """Mean bytes of a task after the first (of the only one where there is one)."""
    sizes = [task["bytes"] for task in line["tasks"]]
    return spread(sizes[1:] or sizes).mean


def front(points: Mapping[str, tuple[float, float]]) -> set[str]:
    """Names of the points (bytes, accuracy) that no other point beats: none has at most the bytes and at least the accuracy, and one of them better.

    >>> sorted(front({"a": (10, 0.9), "b": (20, 0.8), "c": (5, 0.7)}))
    ['a', 'c']
    """
    return {
        name
        for name, (size, accuracy) in points.items()
        if not any(s <= size and a >= accuracy and (s, a) != (size, accuracy) for s, a in points.values())
    }
