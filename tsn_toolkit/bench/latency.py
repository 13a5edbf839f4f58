"""Latency of a package beside the dense float32 model, by the package's own runtime.

One model per process, the processes of both models taking turns, so that neither meets the other's threads and both meet the same machine.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tsn_toolkit.errors import GateError
from tsn_toolkit.export.child import latencies_ms
from tsn_toolkit.export.package import read_manifest
from tsn_toolkit.export.runtime import load_runtime


def bench_package(
    package: Path,
    *,
    dense_fp32: Path | None = None,
    threads: int = 1,
    batches: Sequence[int] = (1, 32),
    seconds: float = 2.0,
    rounds: int = 4,
) -> dict[str, Any]:
    """Measure a package, and the dense float32 model in the same run.

    Args:
        package: a package folder.
        dense_fp32: the dense model in the runtime's own format (its `export_dense_fp32`), None to leave it out.
        threads: intra-op threads of every process.
        batches: batch sizes.
        seconds: measuring time per model and batch size, split over the rounds.
        rounds: processes per model and batch size.

    Returns:
        {"threads", "runtime", "machine", "batch_<n>": {"median", "q1", "q3", "calls", "dense_fp32_median", "dense_fp32_q1", "dense_fp32_q3",
        "speedup"}, "warnings": [...]}; times in milliseconds per batch. For a target that runs in an emulator here, {"runtime", "not_measured",
        "warnings"}: an emulator shows that numbers are right, never how long they take.

    Raises:
        GateError: a setting is out of range, or a model does not run.
    """
    if threads < 1 or rounds < 1 or seconds <= 0 or any(batch < 1 for batch in batches):
        raise GateError(f"A benchmark needs threads, rounds, batches >= 1 and seconds > 0, got {threads}, {rounds}, {tuple(batches)}, {seconds}.")
    manifest = read_manifest(package)
    target = manifest["target"]
    if target.get("toolchain"):
        emulator = " ".join(target["toolchain"]["emulator"][:3])
        return {"runtime": target["runtime"], "not_measured": f"not measured: emulator ({emulator})", "warnings": []}
    runtime = load_runtime(target["runtime"], target=target["name"])
    entries, plain = runtime.session_options(target["session_options_without_vnni"]), runtime.session_options({})
    models: dict[str, tuple[Path, dict[str, str]]] = {"": (package / manifest["model_file"], entries)}
    if dense_fp32 is not None:
        models["dense_fp32_"] = (dense_fp32, plain)
    kind = "float32" if manifest["arithmetic"] == "float" else "int8"
    result: dict[str, Any] = {"threads": threads, "runtime": target["runtime"], "machine": platform.machine(), "warnings": []}
    generator = np.random.Generator(np.random.PCG64(0))
    for batch in batches:
        x = generator.standard_normal((batch, *manifest["inputs"][0]["shape"][1:])).astype(np.float32)
        times: dict[str, list[float]] = {prefix: [] for prefix in models}
        for _ in range(rounds):
            for prefix, (model, options) in models.items():
                share = seconds / rounds
                times[prefix] += latencies_ms(
                    model, x, runtime=target["runtime"], options=options, threads=threads, seconds=share, warmup_seconds=share / 4
                )
        result[f"batch_{batch}"] = _summary(times)
        result["warnings"] += _warnings(batch, result[f"batch_{batch}"], slow_kernels=entries != plain, kind=kind)
    return result


def _summary(times: dict[str, list[float]]) -> dict[str, float | int]:
    numbers: dict[str, float | int] = {}
    for prefix, values in times.items():
        q1, median, q3 = np.percentile(values, [25, 50, 75])
        numbers.update({f"{prefix}median": float(median), f"{prefix}q1": float(q1), f"{prefix}q3": float(q3), f"{prefix}calls": len(values)})
    if "dense_fp32_median" in numbers:
        numbers["speedup"] = numbers["dense_fp32_median"] / numbers["median"]
    return numbers


def _warnings(batch: int, numbers: dict[str, float | int], *, slow_kernels: bool, kind: str = "int8") -> list[str]:
    if numbers.get("speedup", 1.0) >= 1.0:
        return []
    reason = "small layers spend their time between kernels"
    if slow_kernels:
        reason = "this processor has no VNNI instructions, and the exact int8 kernels it needs are slow"
    return [f"batch {batch}: {kind} takes {numbers['median']:.3g} ms, dense fp32 {numbers['dense_fp32_median']:.3g} ms; likely reason: {reason}."]
