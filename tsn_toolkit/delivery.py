"""One task for one target: exported, run in its own runtime, passed through both gates, timed, and only then put in its place."""

from __future__ import annotations

import dataclasses
import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tsn_toolkit.bench.latency import bench_package, not_timed
from tsn_toolkit.bench.vendor_int8 import CALIBRATION_SAMPLES, VendorBaseline, vendor_accuracy, vendor_int8
from tsn_toolkit.contracts import ActivationRange, ExtractedModel, Parity, TaskData
from tsn_toolkit.data.normalisation import normalise
from tsn_toolkit.export.artefact import Artefact
from tsn_toolkit.export.integer_share import IntegerShare, share_warnings
from tsn_toolkit.export.manifest import Preprocessing
from tsn_toolkit.export.package import PackageOptions, write_package
from tsn_toolkit.export.runtime import load_runtime
from tsn_toolkit.export.text_file import TEXT_FILE
from tsn_toolkit.target import Target
from tsn_toolkit.verify.gates import require_passed, run_gates
from tsn_toolkit.verify.integer_share import integer_share


@dataclass(frozen=True)
class BenchSettings:
    """How latency is measured.

    Attributes:
        threads: of the runtime.
        batches: batch sizes.
        seconds: measuring time per model and batch size.
    """

    threads: int = 1
    batches: tuple[int, ...] = (1, 32)
    seconds: float = 1.0


@dataclass(frozen=True)
class Delivery:
    """What is known of a package that stands in its place.

    Attributes:
        parity: both gates, with the share of MACs in integer kernels.
        latency_ms: `batch_<n>` -> median, quartiles and the dense fp32 model beside it.
        vendor_int8: the vendor's int8 of the dense model: tool, bytes and test accuracy, or why there is none.
        model_bytes: size of the model: of its file, or of what it takes in a device's flash.
        warnings: sentences a user should read.
    """

    parity: dict[str, Any]
    latency_ms: dict[str, Any]
    vendor_int8: dict[str, Any]
    model_bytes: int
    warnings: tuple[str, ...]


def deliver(
    extracted: ExtractedModel,
    ranges: Mapping[str, ActivationRange],
    target: Target,
    folder: Path,
    *,
    data: TaskData,
    dense: nn.Module,
    bench: BenchSettings,
    dense_is_trained: bool = True,
    unit_masks: Mapping[str, NDArray[np.bool_]] | None = None,
    recipe: Mapping[str, Any] | None = None,
) -> Delivery:
    """Writes the package, or nothing.

    Args:
        extracted: the task's small model.
        ranges: its activation ranges, from the store.
        target: what it is for.
        folder: the package's place; must not exist.
        data: its test split is measured on; nothing is chosen by it.
        dense: the dense float32 model that latency is compared with, as it is and after the runtime makers' own int8 quantizer.
        bench: how latency is measured.
        dense_is_trained: whether accuracies of the dense model mean anything.
        unit_masks: group -> bool per unit of the pristine model, True = kept, for packages that record them.
        recipe: the resolved recipe of the task, as the store keeps it.

    Raises:
        GateError: a gate failed; there is no package.
    """
    x = normalise(data.test.x, data.mean, data.std)
    found: dict[str, Any] = {}

    def measure(draft: Path, artefact: Artefact) -> Mapping[str, Mapping[str, Any]]:
        parity = run_gates(draft, extracted, artefact.reference, target, x, data.test.y)
        require_passed(parity, extracted.task, target.name)
        share = integer_share(draft)
        found["share_warnings"] = [] if share is None else share_warnings(share, target.gates.integer_share)
        found["parity"] = {**parity_record(parity), **share_record(share)}
        found["bench"] = bench_beside_dense(draft, dense, data, target, bench, dense_is_trained=dense_is_trained)
        return {"parity.json": found["parity"], "bench.json": found["bench"]}

    options = dataclasses.replace(package_options(data), unit_masks=unit_masks or {}, recipe=recipe or {})
    manifest = write_package(extracted, ranges, target, folder, example_input=x[:1], options=options, measure=measure)
    latency = {key: value for key, value in found["bench"].items() if key.startswith("batch_")}
    size = sum(manifest["bytes_by_part"].values())
    warnings = (*found["share_warnings"], *found["bench"]["warnings"])
    return Delivery(found["parity"], latency, found["bench"]["vendor_int8"], size, warnings)


def bench_beside_dense(
    package: Path, dense: nn.Module, data: TaskData, target: Target, bench: BenchSettings, *, dense_is_trained: bool = True
) -> dict[str, Any]:
    """Latency of a package beside the dense model in float32 and in the makers' own int8, which is calibrated on training data.

    Args:
        package: a package folder, finished or not.
        dense, data, target, bench, dense_is_trained: see `deliver`.

    Returns:
        See `bench_package` or `not_timed`, with `vendor_int8`: see `vendor_record`.
    """
    if (untimed := not_timed(target.model_dump(mode="json"))) is not None:
        return {**untimed, "vendor_int8": {"skipped": untimed["not_run"]}}
    runtime = load_runtime(target.runtime, target=target.name)
    calibration = normalise(data.train.x[:CALIBRATION_SAMPLES], data.mean, data.std)
    with tempfile.TemporaryDirectory(prefix="tsn-") as name:
        baseline = Path(name) / runtime.MODEL_FILE
        runtime.export_dense_fp32(dense, calibration[:1], baseline)
        vendor = vendor_int8(dense, calibration.numpy(), target, Path(name))
        record = bench_package(
            package, dense_fp32=baseline, vendor_int8=vendor.model, threads=bench.threads, batches=bench.batches, seconds=bench.seconds
        )
        accuracy = None
        if dense_is_trained:
            accuracy = vendor_accuracy(vendor, target, normalise(data.test.x, data.mean, data.std).numpy(), data.test.y.numpy())
    return {**record, "vendor_int8": vendor_record(vendor, accuracy)}


def parity_record(parity: Parity) -> dict[str, Any]:
    """The gates as JSON: infinities become null."""
    record = dataclasses.asdict(parity)
    record["passed"] = None if parity.not_run and parity.passed else parity.passed  # what was not run has not passed
    return {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in record.items()}


def package_options(data: TaskData) -> PackageOptions:
    """Preprocessing and labels of a task."""
    scaling, reading = 1 / 255 if data.test.x.dtype == torch.uint8 else 1.0, data.test.reading
    text_file = None if reading.text is None else TEXT_FILE
    preprocessing = Preprocessing(mean=data.mean, std=data.std, scaling=scaling, steps=reading.steps, text_file=text_file)
    return PackageOptions(preprocessing=preprocessing, labels=data.labels, text=reading.text)


def vendor_record(vendor: VendorBaseline, accuracy: float | None) -> dict[str, Any]:
    """The vendor's int8 of the dense model as JSON; `accuracy` on test data, null where it was not measured."""
    if vendor.model is None:
        return {"tool": vendor.tool, "skipped": vendor.skipped}
    return {"tool": vendor.tool, "seven_bit_weights": vendor.seven_bit_weights, "bytes": vendor.size_bytes, "accuracy": accuracy}


def share_record(share: IntegerShare | None) -> dict[str, Any]:
    """The share of MACs in integer kernels, null where the runtime computes in floats by design; what stays in float, and why."""
    if share is None:
        return {"integer_mac_share": None, "stays_float": [], "float_reasons": {}}
    return {"integer_mac_share": share.share, "stays_float": list(share.stays_float), "float_reasons": share.reasons}
