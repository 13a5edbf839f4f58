"""A matrix of fractions as coloured cells with their numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tsn_toolkit.report.amounts import fraction


@dataclass(frozen=True)
class Cell:
    """One cell: its number as text, its shade in [0, 1], and whether the shade is dark enough for light text."""

    text: str
    shade: float
    dark: bool


@dataclass(frozen=True)
class HeatMap:
    """A matrix with names.

    Attributes:
        columns: name of each column.
        rows: (name, cells) of each row.
        low, high: values of the lightest and the darkest shade.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]
    low: float
    high: float


def heat_map(rows: Sequence[str], columns: Sequence[str], values: Sequence[Sequence[float | None]], *, low: float, high: float = 1.0) -> HeatMap:
    """Shade a matrix between two values.

    Args:
        rows, columns: names.
        values: one sequence per row; None leaves the cell empty.
        low, high: values of the lightest and the darkest shade; what lies outside is clipped.
    """
    span = high - low

    def cell(value: float | None) -> Cell:
        if value is None:
            return Cell("", 0.0, False)
        shade = min(1.0, max(0.0, (value - low) / span)) if span > 0 else 0.0
        return Cell(fraction(value), round(shade, 3), shade > 0.75)

    shaded = tuple((name, tuple(cell(value) for value in line)) for name, line in zip(rows, values, strict=True))
    return HeatMap(tuple(columns), shaded, low, high)


def shade_floor(values: Sequence[Sequence[float | None]]) -> float:
    """The largest multiple of 0.1 that lies below all values, so that small differences near 1 stay visible.

    >>> shade_floor([[0.97, None], [0.83, 0.99]])
    0.8
    """
    known = [value for line in values for value in line if value is not None]
    return int(min(known, default=0.0) * 10) / 10 if known else 0.0
