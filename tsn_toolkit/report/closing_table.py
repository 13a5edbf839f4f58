"""The table of plain text that a run ends with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tsn_toolkit.report.amounts import count, fraction, milliseconds, ratio, size
from tsn_toolkit.report.folded_warnings import SHOWN_WARNINGS, folded_warnings
from tsn_toolkit.report.task_rows import TaskRow, changed_since_commit, mean, task_rows

GAP = "  "


def summary_table(summary: Mapping[str, Any], folder: str | Path = "") -> str:
    """Per task accuracy, bytes and latency in aligned columns, then totals and where the files are.

    Args:
        summary: the content of `summary.json`.
        folder: the run's folder, for the paths at the end; "" leaves them out.

    Returns:
        Lines of text without colour; the last line has no newline. A dash stands for what was not measured.
    """
    rows = task_rows(summary)
    targets = list(dict.fromkeys(row.target for row in rows if row.target)) or [""]
    several = len(targets) > 1
    group = ["", "accuracy", "", "", "bytes", "", "", "latency ms, batch 1", ""]
    head = ["task", "dense", "store", "exported", "delta", "exported", "dense fp32", "exported", "dense fp32"]
    body = [_cells(row) for row in rows]
    means = [_mean_cells(rows, target) for target in targets] if rows else []
    if several:
        group.insert(1, "")
        head.insert(1, "target")
        for line, target in zip([*body, *means], [*(row.target for row in rows), *targets], strict=True):
            line.insert(1, target)
    lines = _aligned(group, head, body, means, text_columns=2 if several else 1)
    blocks = [lines, _totals(summary), _places(folder, packages=any(row.target for row in rows))]
    return "\n\n".join("\n".join(block) for block in blocks if block)


def _cells(row: TaskRow) -> list[str]:
    latency = row.latency.get(1)
    return [
        row.task,
        *(_dash(fraction, value) for value in (row.accuracy_dense, row.accuracy_store, row.accuracy_exported)),
        *(_dash(count, value) for value in (row.bytes_delta, row.bytes_exported, row.bytes_dense_fp32)),
        *(_dash(milliseconds, value) for value in ((latency.median, latency.dense_median) if latency else (None, None))),
    ]


def _mean_cells(rows: Sequence[TaskRow], target: str) -> list[str]:
    """Means over all tasks; what only a target has stays open when a task was not exported for it."""
    first = [row for row in rows if row.first]
    found = {row.task: row for row in rows if row.target == target}
    exported = [found.get(row.task) for row in first]
    latencies = [row.latency.get(1) if row else None for row in exported]
    return [
        "mean",
        _dash(fraction, mean(row.accuracy_dense for row in first)),
        _dash(fraction, mean(row.accuracy_store for row in first)),
        _dash(fraction, mean(row.accuracy_exported if row else None for row in exported)),
        _dash(count, mean(row.bytes_delta for row in first)),
        _dash(count, mean(row.bytes_exported if row else None for row in exported)),
        _dash(count, mean(row.bytes_dense_fp32 for row in first)),
        _dash(milliseconds, mean(latency.median if latency else None for latency in latencies)),
        _dash(milliseconds, mean(latency.dense_median if latency else None for latency in latencies)),
    ]


def _dash(words: Any, value: float | None) -> str:
    return "-" if value is None else str(words(value))


def _aligned(group: list[str], head: list[str], body: list[list[str]], means: list[list[str]], *, text_columns: int) -> list[str]:
    """Head, rows and means with rules between; names to the left, numbers to the right; a group's title starts where its first column starts."""
    widths = [max(len(line[column]) for line in [head, *body, *means]) for column in range(len(head))]
    spans = [position for position, title in enumerate(group) if title]
    for start, end in zip(spans, [*spans[1:], len(group)], strict=True):
        missing = len(group[start]) - sum(widths[start:end]) - len(GAP) * (end - start - 1)
        widths[end - 1] += max(0, missing)
    titles, column = "", 0
    for width, title in zip(widths, group, strict=True):
        titles = titles.ljust(column) + title if title else titles
        column += width + len(GAP)
    rule = "-" * (sum(widths) + len(GAP) * (len(widths) - 1))

    def line(cells: list[str]) -> str:
        padded = (cell.ljust(width) if n < text_columns else cell.rjust(width) for n, (cell, width) in enumerate(zip(cells, widths, strict=True)))
        return GAP.join(padded).rstrip()

    lines = [titles, line(head), rule, *(line(cells) for cells in body)]
    return [*lines, rule, *(line(cells) for cells in means)] if means else lines


def _totals(summary: Mapping[str, Any]) -> list[str]:
    store_bytes = summary.get("store_bytes")
    lines = []
    if store_bytes is not None:
        lines.append(f"store: {count(store_bytes)} bytes ({size(store_bytes)}) for {len(summary.get('tasks') or [])} tasks, every file counted")
    if summary.get("superseded_bytes"):
        lines.append(f"  of these {count(summary['superseded_bytes'])} bytes are older revisions, which answer no more")
    words = {
        "dense_fp32": "one dense fp32 model, all heads",
        "separate_fp32": "separate dense fp32 models",
        "separate_int8": "separate dense int8 models",
        "separate_encoded": "separate models, same encoding",
    }
    for key, name in words.items():
        value = (summary.get("denominators") or {}).get(key)
        if value is not None:
            fraction_of = f"the store is {ratio(store_bytes, value)} of it" if store_bytes is not None else ""
            lines.append(f"  {name + ':':<33}{count(value):>14} bytes  {fraction_of}".rstrip())
    measures = [f"{key} {fraction(summary[key])}" for key in ("acc", "bwt", "fwt") if summary.get(key) is not None]
    if measures:
        lines.append(f"re-measured from the folder: {', '.join(measures)}")
    if changed_since_commit(summary):
        lines.append("accuracy in the table is each task's when it was committed; acc is of all tasks after the last one")
    if found := summary.get("task_inference"):
        told, rule = fraction(found["acc_told"]), found["rule"]
        lines.append(f"task found by {rule} for {fraction(found['task_found'])} of the examples; acc {told} had it been told")
    if summary.get("dense_reference"):
        lines.append(f"dense: {summary['dense_reference']}")
    warnings = folded_warnings(summary)
    lines += [f"warning: {warning}" for warning in warnings[:SHOWN_WARNINGS]]
    if len(warnings) > SHOWN_WARNINGS:
        lines.append(f"warning: and {len(warnings) - SHOWN_WARNINGS} more, all in summary.json and the report")
    return lines


def _places(folder: str | Path, *, packages: bool) -> list[str]:
    if not str(folder):
        return []
    places = {"store": "store", **({"packages": "packages"} if packages else {}), "summary": "summary.json", "report": "report.html"}
    return [f"{name + ':':<10}{Path(folder) / path}" for name, path in places.items()]
