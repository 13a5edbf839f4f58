"""The few numbers that the page opens with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tsn_toolkit.report.amounts import NOT_MEASURED, count, fraction, ratio, size
from tsn_toolkit.report.gates import GateRow
from tsn_toolkit.report.task_rows import TaskRow, changed_since_commit, mean


@dataclass(frozen=True)
class Card:
    """One number with its name, and lines of small print below it."""

    title: str
    value: str
    lines: tuple[str, ...]


def headline(summary: Mapping[str, Any], rows: Sequence[TaskRow], gates: Sequence[GateRow]) -> tuple[Card, ...]:
    """Cards for accuracy, store size, what later tasks did to earlier ones, and the gates."""
    return (_accuracy(summary, rows), _store(summary), _later_tasks(summary), _gates(gates))


def _accuracy(summary: Mapping[str, Any], rows: Sequence[TaskRow]) -> Card:
    """After the last task, which is what the store answers now."""
    first = [row for row in rows if row.first]
    dense, committed = (mean(values) for values in ([row.accuracy_dense for row in first], [row.accuracy_store for row in first]))
    lines = [f"dense {fraction(dense)}"]
    if changed_since_commit(summary):
        lines.append(f"each task when it was committed: {fraction(committed)}")
    targets = list(dict.fromkeys(row.target for row in rows if row.target))
    for target in targets:
        of_target = [row.accuracy_exported for row in rows if row.target == target]
        exported = mean(of_target) if len(of_target) == len(first) else None
        lines.append(f"exported, {target}: {fraction(exported)}")
    if not targets:
        lines.append("nothing exported")
    acc = summary.get("acc")
    return Card("Mean accuracy from the store", fraction(committed if acc is None else acc), tuple(lines))


def _store(summary: Mapping[str, Any]) -> Card:
    store_bytes, denominators = summary.get("store_bytes"), summary.get("denominators") or {}
    number = len(summary.get("tasks") or [])
    lines = [f"{count(store_bytes)} bytes for {number} {'task' if number == 1 else 'tasks'}"]
    names = {"dense_fp32": "one dense fp32 model, all heads", "separate_fp32": f"{number} separate dense fp32 models"}
    for key, words in names.items():
        value = denominators.get(key)
        if value is not None and store_bytes is not None:
            lines.append(f"{ratio(store_bytes, value)} of {words} ({size(value)})")
    if summary.get("superseded_bytes"):
        lines.append(f"{count(summary['superseded_bytes'])} of the bytes are older revisions")
    return Card("Store on disk", size(store_bytes), tuple(lines))


def _later_tasks(summary: Mapping[str, Any]) -> Card:
    bwt = summary.get("bwt")
    if bwt is None and len(summary.get("tasks") or []) == 1:
        return Card("Backward transfer", "none", ("there is only one task",))
    lines = [f"acc {fraction(summary.get('acc'))}, re-measured from the folder"]
    if summary.get("fwt") is not None:
        lines.append(f"forward transfer {fraction(summary['fwt'])}")
    return Card("Backward transfer", fraction(bwt), tuple(lines))


def _gates(gates: Sequence[GateRow]) -> Card:
    if not gates:
        return Card("Packages through both gates", NOT_MEASURED, ())
    passed = sum(row.passed is True for row in gates)
    agreement = [row.top1_agreement for row in gates if row.top1_agreement is not None]
    lines = (f"smallest top-1 agreement {fraction(min(agreement))}",) if agreement else ()
    return Card("Packages through both gates", f"{passed} of {len(gates)}", lines)
