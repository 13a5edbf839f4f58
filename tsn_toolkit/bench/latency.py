"""Latency of a package beside the dense model, in float32 and in the makers' own int8, by the package's own runtime.

One model per process, the processes of all models taking turns, so that none meets another's threads and all meet the same machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tsn_toolkit.errors import GateError
from tsn_toolkit.export.artefact import require_runtime
from tsn_toolkit.export.child import latencies_ms
from tsn_toolkit.export.package_folder import checked_manifest
from tsn_toolkit.export.processor import processor_record
from tsn_toolkit.export.runtime import load_runtime

_SPEEDUPS = {"speedup": "dense_fp32_", "speedup_over_vendor_int8": "vendor_int8_"}
_NAMES = {"dense_fp32_": "dense fp32", "vendor_int8_": "the vendor's int8 of the dense model"}


@dataclass(frozen=True)
class Causes:
    """What may make a package slower than a baseline.

    Attributes:
        slow_kernels: the target asks for exact, slower kernels on this processor.
        computes_float: the package computes in float32.
        whole: no unit was removed.
    """

    slow_kernels: bool = False
    computes_float: bool = False
    whole: bool = False

    def of(self, baseline: str) -> str:
        """The likely reason for being slower than the baseline with this prefix."""
        vendor = baseline == "vendor_int8_"
        if self.slow_kernels:
            reason = "this processor has no VNNI instructions, and the exact int8 kernels it needs are slow"
            return f"{reason}; a target whose `max_code` is 63 does without them" if vendor else reason
        if vendor and self.computes_float:
            return "this package computes in float32, the other in int8"
        if self.whole:
            return "no unit was removed, so both do the same work"
        return "small layers spend their time between kernels"


def bench_package(
    package: Path,
    *,
    dense_fp32: Path | None = None,
    vendor_int8: Path | None = None,
    threads: int = 1,
    batches: Sequence[int] = (1, 32),
    seconds: float = 2.0,
    rounds: int = 4,
) -> dict[str, Any]:
    """Measure a package, and the dense model in the same run.

    Args:
        package: a package folder.
        dense_fp32: the dense model in the runtime's own format (its `export_dense_fp32`), None to leave it out.
        vendor_int8: the dense model after the makers' own quantizer (`bench.vendor_int8`), None to leave it out.
        threads: intra-op threads of every process.
        batches: batch sizes.
        seconds: measuring time per model and batch size, split over the rounds.
        rounds: processes per model and batch size.

    Returns:
        {"unit", "threads", "runtime", "machine", "processor", "vnni", "bf16", "batch_<n>": {"median", "q1", "q3", "calls",
        "dense_fp32_median", "dense_fp32_q1", "dense_fp32_q3", "speedup", the same for "vendor_int8_" and
        "speedup_over_vendor_int8"}, "warnings": [...]}; times in milliseconds per batch. `processor`, `vnni`, `bf16`: see `processor_record`.
        Where the target cannot be timed on this machine: see `not_timed`.

    Raises:
        GateError: a setting is out of range, the package is damaged, or a model does not run.
        TargetError: the runtime is missing or too old.
    """
    if threads < 1 or rounds < 1 or seconds <= 0 or any(batch < 1 for batch in batches):
        raise GateError(f"A benchmark needs threads, rounds, batches >= 1 and seconds > 0, got {threads}, {rounds}, {tuple(batches)}, {seconds}.")
    manifest = checked_manifest(package)
    if not (package / manifest["model_file"]).is_file():
        raise GateError(f"Package `{package}`: `{manifest['model_file']}` is missing. Export the task again.")
    target = manifest["target"]
    if (untimed := not_timed(target)) is not None:
        return untimed
    runtime = load_runtime(target["runtime"], target=target["name"])
    require_runtime(runtime.DISTRIBUTION, target)
    entries, plain = runtime.session_options(target["session_options_without_vnni"]), runtime.session_options({})
    models: dict[str, tuple[Path, dict[str, str]]] = {"": (package / manifest["model_file"], entries)}
    if dense_fp32 is not None:
        models["dense_fp32_"] = (dense_fp32, plain)
    if vendor_int8 is not None:
        models["vendor_int8_"] = (vendor_int8, plain)
    causes = Causes(slow_kernels=entries != plain, computes_float=manifest["arithmetic"] == "float", whole=manifest["macs"] == manifest["dense_macs"])
    unit = "milliseconds per batch"
    result: dict[str, Any] = {"unit": unit, "threads": threads, "runtime": target["runtime"], **processor_record(), "warnings": []}
    generator = np.random.Generator(np.random.PCG64(0))
    for batch in batches:
        x = _random_inputs(generator, manifest["inputs"][0], batch)
        times: dict[str, list[float]] = {prefix: [] for prefix in models}
        for _ in range(rounds):
            for prefix, (model, options) in models.items():
                share = seconds / rounds
                times[prefix] += latencies_ms(
                    model, x, runtime=target["runtime"], options=options, threads=threads, seconds=share, warmup_seconds=share / 4
                )
        result[f"batch_{batch}"] = _summary(times)
        result["warnings"] += slower_warnings(batch, result[f"batch_{batch}"], causes)
    return result


def _random_inputs(generator: np.random.Generator, given: Mapping[str, Any], batch: int) -> NDArray[np.float32]:
    """Numbers below the length of the table that they are looked up in, where the manifest's input has one, else N(0, 1): float32 (batch, ...)."""
    shape = (batch, *given["shape"][1:])
    return (generator.integers(0, given["below"], shape) if "below" in given else generator.standard_normal(shape)).astype(np.float32)


def not_timed(target: Mapping[str, Any]) -> dict[str, Any] | None:
    """What stands in place of latencies that this machine cannot measure: {"runtime", "not_run", "warnings"}; None where it can.

    Either the runtime cannot run here, or only in an emulator, which shows that numbers are right and never how long they take.

    Args:
        target: as a manifest states it.
    """
    if target.get("toolchain"):
        emulator = " ".join(target["toolchain"]["emulator"][:3])
        return {"runtime": target["runtime"], "not_run": f"not measured: emulator ({emulator})", "warnings": []}
    not_run = load_runtime(target["runtime"], target=target["name"]).cannot_run()
    return {"runtime": target["runtime"], "not_run": not_run, "warnings": [f"no latency: {not_run}."]} if not_run else None


def _summary(times: dict[str, list[float]]) -> dict[str, float | int]:
    numbers: dict[str, float | int] = {}
    for prefix, values in times.items():
        q1, median, q3 = np.percentile(values, [25, 50, 75])
        numbers.update({f"{prefix}median": float(median), f"{prefix}q1": float(q1), f"{prefix}q3": float(q3), f"{prefix}calls": len(values)})
    for key, prefix in _SPEEDUPS.items():
        if f"{prefix}median" in numbers:
            numbers[key] = numbers[f"{prefix}median"] / numbers["median"]
    return numbers


def slower_warnings(batch: int, numbers: Mapping[str, float | int], causes: Causes) -> list[str]:
    """A sentence for each baseline that is faster than the package, with the likely reason."""
    found = []
    kind = "float32" if causes.computes_float else "int8"
    for key, prefix in _SPEEDUPS.items():
        if numbers.get(key, 1.0) < 1.0:
            times = f"{kind} takes {numbers['median']:.3g} ms, {_NAMES[prefix]} {numbers[f'{prefix}median']:.3g} ms"
            found.append(f"batch {batch}: {times}; likely reason: {causes.of(prefix)}.")
    return found
