"""Warnings that say the same of several tasks, as one line each.

Every task of a run is benchmarked on every target, so that one cause (a net too small for a thread, a batch too small for a kernel) is reported once
per task. Two warnings are alike if they differ in the task's name at their beginning and in measured numbers alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

SHOWN_WARNINGS = 3
"""Lines that a reader sees at first."""

_NUMBER = re.compile(r"(?<![\w.])(\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?(?= (?:ms|bytes|KiB|MiB)\b)|\d+\.\d+(?:e[+-]?\d+)?)")
"""A measured number: it has a unit or decimals. Others, as in `batch 32`, belong to the text."""


def folded_warnings(summary: Mapping[str, Any]) -> list[str]:
    """The warnings of a summary in the order of their first occurrence; of those that are alike one line with ranges and the tasks.

    >>> lines = ["a, cpu: batch 1: int8 takes 0.4 ms", "a, cpu: batch 8: int8 takes 2 ms", "b, cpu: batch 1: int8 takes 0.5 ms"]
    >>> folded_warnings({"tasks": [{"name": "a"}, {"name": "b"}], "warnings": lines})
    ['cpu: batch 1: int8 takes 0.4 to 0.5 ms (2 tasks: a, b)', 'a, cpu: batch 8: int8 takes 2 ms']
    """
    names = [str(task["name"]) for task in summary.get("tasks") or [] if task.get("name")]
    alike: dict[tuple[bool, tuple[str, ...]], list[tuple[str, str]]] = {}
    for warning in summary.get("warnings") or []:
        task, sentence = _split(warning, names)
        texts = tuple(_NUMBER.split(sentence)[::2]) if task else (warning,)
        alike.setdefault((bool(task), texts), []).append((task, sentence))
    return [_line(group) for group in alike.values()]


def _split(warning: str, names: Sequence[str]) -> tuple[str, str]:
    """The task that a warning is about and what it says of it; no task, and the whole, where it begins with none."""
    about = [name for name in names if warning.startswith(f"{name}, ")]
    task = max(about, key=len, default="")
    return task, warning[len(task) + 2 :] if task else warning


def _line(group: Sequence[tuple[str, str]]) -> str:
    """One line for warnings that are alike: (task, sentence) each."""
    tasks = list(dict.fromkeys(task for task, _ in group))
    if len(group) == 1 or not tasks[0]:
        task, sentence = group[0]
        return f"{task}, {sentence}" if task else sentence
    texts, *_ = (_NUMBER.split(sentence)[::2] for _, sentence in group)
    columns = zip(*(_NUMBER.findall(sentence) for _, sentence in group), strict=True)
    numbers = [_range(column) for column in columns]
    sentence = "".join(part for pair in zip(texts, [*numbers, ""], strict=True) for part in pair)
    return f"{sentence} ({len(tasks)} task{'s' if len(tasks) > 1 else ''}: {', '.join(tasks)})"


def _range(numbers: Sequence[str]) -> str:
    """`0.4 to 0.5` of numbers as they are written; one number where all are equal."""
    ordered = sorted(numbers, key=lambda number: float(number.replace(",", "")))
    return ordered[0] if ordered[0] == ordered[-1] else f"{ordered[0]} to {ordered[-1]}"
