"""Means and deviations over seeds, and the front of accuracy against bytes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from harness.results import Line
from tsn_toolkit.metrics import continual_metrics


@dataclass(frozen=True)
class Spread:
    """Several measurements of one number.

    Attributes:
        mean: arithmetic mean.
        deviation: of the sample (n - 1); None for a single measurement.
        count: of measurements.
    """

    mean: float
    deviation: float | None
    count: int = 1

    def times(self, factor: float) -> Spread:
        """In another unit."""
        return Spread(self.mean * factor, None if self.deviation is None else self.deviation * abs(factor), self.count)

    def text(self, digits: int) -> str:
        """`70.1 ± 0.4`, or the mean alone."""
        mean = f"{self.mean:,.{digits}f}"
        return mean if self.deviation is None else f"{mean} ± {self.deviation:,.{digits}f}"


def spread(values: Sequence[float]) -> Spread:
    """Mean and sample deviation of at least one value.

    >>> spread([1.0, 3.0])
    Spread(mean=2.0, deviation=1.4142135623730951, count=2)
    """
    middle = mean(values)
    if len(values) == 1:
        return Spread(middle, None)
    return Spread(middle, math.sqrt(math.fsum((value - middle) ** 2 for value in values) / (len(values) - 1)), len(values))


def mean(values: Sequence[float]) -> float:
    """Arithmetic mean of at least one value."""
    return math.fsum(values) / len(values)


def paired_difference(lines: Sequence[Line], base: Sequence[Line], key: str) -> Spread | None:
    """Spread of `lines` minus `base` over the seeds that both have; None where they share none."""
    differences = [line[key] - other[key] for line, other in paired(lines, base)]
    return spread(differences) if differences else None


def paired_ratio(lines: Sequence[Line], base: Sequence[Line], number: Callable[[Line], float]) -> Spread | None:
    """Spread of a number of `lines` over that of `base` over the seeds that both have; None where they share none."""
    ratios = [number(line) / number(other) for line, other in paired(lines, base)]
    return spread(ratios) if ratios else None


def paired(lines: Sequence[Line], base: Sequence[Line]) -> list[tuple[Line, Line]]:
    """A line of each side for every seed that both have."""
    of_seed = {line["seed"]: line for line in base}
    return [(line, of_seed[line["seed"]]) for line in lines if line["seed"] in of_seed]


def points(values: Sequence[float | None]) -> str:
    """Fractions in points; empty where the number is not defined."""
    known = [value for value in values if value is not None]
    return spread(known).times(100).text(2) if known else ""


def signed_points(value: Spread) -> str:
    """A difference of fractions in points, with its sign."""
    change = value.times(100)
    return ("+" if change.mean >= 0 else "") + change.text(2)


def training_processor(lines: Sequence[Line]) -> str:
    """Processor seconds of training over the lines that hold them; empty where none does."""
    held = [sum(line["training_cpu_s"].values()) for line in lines if "training_cpu_s" in line]
    return spread(held).text(1) if held else ""


def live_bytes(line: Line) -> int:
    """Bytes of the files that answer for a task today: without the revisions that newer ones have replaced."""
    return int(line["store_bytes"] - line.get("superseded_bytes", 0))


def max_forgetting(line: Line) -> float | None:
    """Mean over tasks of the best accuracy there ever was minus the last; None where there is nothing to forget."""
    return None if line["R"] is None else continual_metrics(line["R"]).max_forgetting


def accuracy_so_far(line: Line) -> list[float]:
    """After each task, the mean accuracy over the tasks until then; `R` must be there."""
    return [mean(row[: t + 1]) for t, row in enumerate(line["R"])]


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
