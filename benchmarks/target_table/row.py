"""One learned task for one target: the package through both gates and the runtime's own clock, or why there is none."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

from target_table.learned import Learned
from tsn_toolkit.contracts import Split, TaskData
from tsn_toolkit.delivery import BenchSettings, deliver
from tsn_toolkit.errors import ExportError, GateError, TargetError
from tsn_toolkit.files import read_json
from tsn_toolkit.target import Target

Row = dict[str, Any]

MAX_HOST_MACS = 5e9
"""Multiply-accumulates that a generated C program runs on this computer per target: its kernels are plain loops."""
LEAST_EXAMPLES = 100


def measure(learned: Learned, target: Target, *, seconds: float) -> Row:
    """Everything that is known of a task on one target.

    Args:
        learned: the task.
        target: what it is exported for.
        seconds: measuring time per model and batch size.

    Returns:
        `target`, `kind`, and either `refused` and `why`, or `bytes` (of the model's file; flash of a C program), `accuracy`, `test_examples` (that the
        artefact answered), `gates` and `limits`, `latency_ms`, `not_timed`, `integer_mac_share` and `stays_float`.
    """
    row: Row = {"target": target.name, "kind": target.kind, "runtime": target.runtime}
    data = examples_for(learned.data, target, learned.extracted.macs)
    with tempfile.TemporaryDirectory(prefix="tsn-") as name:
        place = Path(name) / "package"
        try:
            done = deliver(
                learned.extracted, learned.ranges, target, place, data=data, dense=learned.dense, bench=BenchSettings(seconds=seconds)
            )
        except (ExportError, TargetError, GateError) as error:
            return {**row, "refused": "a gate failed" if isinstance(error, GateError) else "refused", "why": str(error)}
        bench = read_json(place / "bench.json")
    parity = done.parity
    return {
        **row,
        "bytes": done.model_bytes,
        "accuracy": parity["accuracy"],
        "test_examples": len(data.test),
        "gates": {key: parity[key] for key in ("output_steps", "top1_agreement", "sqnr_db", "samples", "not_run")},
        "limits": target.gates.model_dump(),
        "latency_ms": done.latency_ms,
        "not_timed": bench.get("not_run", ""),
        "vendor_int8": done.vendor_int8,
        "integer_mac_share": parity["integer_mac_share"],
        "stays_float": parity["stays_float"],
    }


def examples_for(data: TaskData, target: Target, macs: int) -> TaskData:
    """The task's data; for a generated C program with as many of the first test examples as its plain loops answer in reasonable time.

    Args:
        data: of the task.
        target: a target.
        macs: of one example.
    """
    if target.toolchain is None:
        return data
    count = max(LEAST_EXAMPLES, int(MAX_HOST_MACS / max(macs, 1)))
    return dataclasses.replace(data, test=Split(data.test.x[:count], data.test.y[:count]))
