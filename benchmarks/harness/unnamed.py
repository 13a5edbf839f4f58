"""Variants that are not told the task of a test example: beside the same strategy when it is told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from harness.markdown import markdown_table
from harness.results import Line
from harness.statistics import mean, paired_difference, points, signed_points
from harness.strategies import UNNAMED, is_told_the_task

Lines = Mapping[str, Sequence[Line]]

_HEAD = ("variant", "seeds", "test %", "minus told, points", "tasks found, % of examples", "bwt, points", "fwt, points")

_EXPLAINED = (
    "`-class`: one head over the classes of all tasks. `-domain`: one head that tasks of the same classes share. `-inferred`: of all tasks' networks "
    "the one whose share makes the answers surest (SupSup's one-shot rule, 128 examples of one task at a time); a prediction is right when its class "
    "is. Told is the variant without the ending. With more tasks there is more to mistake one for, so `bwt` of an `exact` strategy falls here "
    "although no network changed."
)


def without_task_names(lines: Lines) -> list[str]:
    """Heading, words and table; nothing where no such variant was measured."""
    names = [name for name in lines if not is_told_the_task(name)]
    if not names:
        return []
    rows = [[f"`{name}`", str(len(lines[name])), *_measured(lines[name], lines.get(_told(name), ()))] for name in names]
    return ["## Without the task's name", _EXPLAINED, markdown_table(_HEAD, rows)]


def _told(name: str) -> str:
    """The same variant, told the task."""
    return next(name.removesuffix(ending) for ending in UNNAMED if name.endswith(ending))


def _measured(own: Sequence[Line], told: Sequence[Line]) -> list[str]:
    difference = paired_difference(own, told, "acc")
    found = [100 * line["task_inference"]["task_found"] for line in own if "task_inference" in line]
    return [
        points([line["acc"] for line in own]),
        "" if difference is None else signed_points(difference),
        f"{mean(found):.1f}" if found else "",
        *(points([line.get(key) for line in own]) for key in ("bwt", "fwt")),
    ]
