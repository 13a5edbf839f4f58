"""One row per task and target: accuracy, bytes, multiply-accumulates and latency."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Latency:
    """Milliseconds at one batch size: quartiles of the exported model, median of dense fp32; None where not measured."""

    batch: int
    median: float | None
    q1: float | None
    q3: float | None
    dense_median: float | None

    @property
    def slower(self) -> bool:
        """True when the exported model is slower than dense fp32."""
        return self.median is not None and self.dense_median is not None and self.median > self.dense_median


@dataclass(frozen=True)
class TaskRow:
    """One task on one target, as when it was committed; every number is None where it was not measured. `first` marks a task's first row."""

    task: str
    target: str
    first: bool
    accuracy_dense: float | None
    accuracy_store: float | None
    accuracy_exported: float | None
    bytes_delta: int | None
    bytes_exported: int | None
    bytes_dense_fp32: int | None
    macs_dense: int | None
    macs_extracted: int | None
    latency: Mapping[int, Latency]
    threads: int | None


def task_rows(summary: Mapping[str, Any]) -> tuple[TaskRow, ...]:
    """The rows of `summary["tasks"]` in order; a task without an exported model has one row with an empty target."""
    return tuple(row for task in summary.get("tasks") or [] for row in _rows_of(task))


def changed_since_commit(summary: Mapping[str, Any]) -> bool:
    """True when the store answers a task otherwise than on the day of its commit: tasks share one network, or the task has to be found among more."""
    matrix = summary.get("R") or [[]]
    return any(after != matrix[position][position] for position, after in enumerate(matrix[-1]))


def batches(rows: Iterable[TaskRow]) -> tuple[int, ...]:
    """Batch sizes for which any row has a latency, ascending."""
    return tuple(sorted({batch for row in rows for batch in row.latency}))


def mean(values: Iterable[float | None]) -> float | None:
    """Mean of the known values, None when one is missing or there is none: a mean over a part would mislead."""
    known = list(values)
    if not known or any(value is None for value in known):
        return None
    return sum(value for value in known if value is not None) / len(known)


def _rows_of(task: Mapping[str, Any]) -> list[TaskRow]:
    accuracy, sizes, macs = (task.get(key) or {} for key in ("accuracy", "bytes", "macs"))
    exported, exported_bytes, latency = accuracy.get("exported") or {}, sizes.get("exported") or {}, task.get("latency_ms") or {}
    targets = list(dict.fromkeys([*exported, *exported_bytes, *latency])) or [""]
    return [
        TaskRow(
            task=str(task.get("name", "")),
            target=target,
            first=position == 0,
            accuracy_dense=accuracy.get("dense"),
            accuracy_store=accuracy.get("store"),
            accuracy_exported=exported.get(target),
            bytes_delta=sizes.get("delta"),
            bytes_exported=exported_bytes.get(target),
            bytes_dense_fp32=sizes.get("dense_fp32"),
            macs_dense=macs.get("dense"),
            macs_extracted=macs.get("extracted"),
            latency=_latencies(latency.get(target) or {}),
            threads=(latency.get(target) or {}).get("threads"),
        )
        for position, target in enumerate(targets)
    ]


def _latencies(measured: Mapping[str, Any]) -> dict[int, Latency]:
    """Latencies by batch size from keys `batch_<n>`; other keys (threads and the like) are left alone."""
    found = {}
    for key, value in measured.items():
        number = key.removeprefix("batch_")
        if key.startswith("batch_") and number.isdigit() and isinstance(value, Mapping):
            found[int(number)] = Latency(int(number), value.get("median"), value.get("q1"), value.get("q3"), value.get("dense_fp32_median"))
    return found
