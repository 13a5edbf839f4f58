"""One learned task for one target: the file, both gates, the runtime's own clock and profile, or why there is none."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from target_table.learned import Learned
from tsn_toolkit.bench.latency import bench_package
from tsn_toolkit.contracts import Split
from tsn_toolkit.data.normalisation import normalise
from tsn_toolkit.delivery import package_options, parity_record
from tsn_toolkit.errors import ExportError, TargetError
from tsn_toolkit.export.artefact import Artefact
from tsn_toolkit.export.package import write_package
from tsn_toolkit.export.runtime import load_runtime
from tsn_toolkit.target import Target
from tsn_toolkit.verify.gates import run_gates
from tsn_toolkit.verify.integer_share import integer_share

Row = dict[str, Any]

MAX_HOST_MACS = 2e9
"""Multiply-accumulates that a generated C program runs on this computer per target: its kernels are plain loops."""
LEAST_EXAMPLES = 50
ROUNDS = 2
"""Processes per model and batch size, package and dense network taking turns."""


def measure(learned: Learned, target: Target, *, seconds: float) -> Row:
    """Everything that is known of a task on one target.

    Args:
        learned: the task.
        target: what it is exported for.
        seconds: measuring time per model and batch size.

    Returns:
        `target`, `kind`, and either `refused` (why there is no file) or `bytes` (of the model's file; flash of a C program), `parity` (both gates,
        the accuracy of the artefact, `failures`), `limits`, `test_examples` (that the artefact answered), `integer_mac_share`, `stays_float`, and
        `times` (see `bench_package`). A gate that failed has its numbers here like any other; a user would get no package.
    """
    row: Row = {"target": target.name, "kind": target.kind}
    with tempfile.TemporaryDirectory(prefix="tsn-") as name:
        try:
            return row | _measured(learned, target, Path(name), seconds)
        except (ExportError, TargetError) as error:
            return {**row, "refused": str(error)}


def _measured(learned: Learned, target: Target, folder: Path, seconds: float) -> Row:
    data, found = learned.data, {}
    test = examples_for(data.test, target, learned.extracted.macs)
    x = normalise(test.x, data.mean, data.std)

    def gates(draft: Path, artefact: Artefact) -> Mapping[str, Mapping[str, Any]]:
        parity = run_gates(draft, learned.extracted, artefact.reference, target, x, test.y)
        share = None if parity.not_run else integer_share(draft)
        found["parity"] = parity_record(parity)
        found["integer_mac_share"] = None if share is None else share.share
        found["stays_float"] = [] if share is None else list(share.stays_float)
        return {}

    package, options = folder / "package", package_options(data)
    manifest = write_package(learned.extracted, learned.ranges, target, package, example_input=x[:1], options=options, measure=gates)
    return {
        **found,
        "bytes": sum(manifest["bytes_by_part"].values()),
        "limits": target.gates.model_dump(),
        "test_examples": len(test),
        "times": _times(learned, target, package, seconds),
    }


def _times(learned: Learned, target: Target, package: Path, seconds: float) -> dict[str, Any]:
    """The package beside the dense fp32 network in the same runtime."""
    runtime = load_runtime(target.runtime, target=target.name)
    if target.toolchain is not None or runtime.cannot_run():
        return bench_package(package)
    dense = package.parent / runtime.MODEL_FILE
    runtime.export_dense_fp32(learned.dense, normalise(learned.data.test.x[:1], learned.data.mean, learned.data.std), dense)
    return bench_package(package, dense_fp32=dense, seconds=seconds, rounds=ROUNDS)


def examples_for(test: Split, target: Target, macs: int) -> Split:
    """Test examples that the artefact answers: all, or for a generated C program as many of the first as its plain loops answer in reasonable time.

    Args:
        test: the task's test part.
        target: a target.
        macs: of one example.
    """
    if target.toolchain is None:
        return test
    count = max(LEAST_EXAMPLES, int(MAX_HOST_MACS / max(macs, 1)))
    return Split(test.x[:count], test.y[:count])
