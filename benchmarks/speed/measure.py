"""One subject for one target: exported, checked, timed beside the dense network in fp32 and in the vendor's int8, and profiled."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from speed.subject import Subject
from tsn_toolkit.bench.latency import bench_package
from tsn_toolkit.bench.vendor_int8 import vendor_accuracy, vendor_int8
from tsn_toolkit.data.normalisation import normalise
from tsn_toolkit.delivery import package_options, parity_record, vendor_record
from tsn_toolkit.errors import GateError
from tsn_toolkit.export.child import profile
from tsn_toolkit.export.package import PackageOptions, write_package
from tsn_toolkit.export.runtime import load_runtime
from tsn_toolkit.target import load_target
from tsn_toolkit.verify.gates import run_gates

Row = dict[str, Any]
BATCHES = (1, 32)


def measure(subject: Subject, target_name: str, *, seconds: float, rounds: int) -> Row:
    """Everything that is known of one subject on one target.

    Args:
        subject: see `Subject`.
        target_name: a target.
        seconds: measuring time per model and batch size.
        rounds: processes per model and batch size, the models taking turns.

    Raises:
        GateError: a gate failed.
    """
    target = load_target(target_name)
    runtime = load_runtime(target.runtime, target=target.name)
    calibration, x, y = _samples(subject)
    with tempfile.TemporaryDirectory(prefix="tsn-") as name:
        folder = Path(name)
        package, dense = folder / "package", folder / runtime.MODEL_FILE
        options = package_options(subject.data) if subject.data is not None else PackageOptions(golden_samples=1)
        gates: dict[str, Any] = {}

        def gate(draft: Path, artefact: Any) -> Mapping[str, Mapping[str, Any]]:
            parity = run_gates(draft, subject.extracted, artefact.reference, target, x, y)
            if not parity.passed:
                raise GateError(f"{subject.name}, {target.name}: " + " ".join(parity.failures))
            gates.update(parity_record(parity))
            return {}

        manifest = write_package(subject.extracted, subject.ranges, target, package, example_input=x[:1], options=options, measure=gate)
        runtime.export_dense_fp32(subject.dense, x[:1], dense)
        vendor = vendor_int8(subject.dense, calibration, target, folder)
        times = bench_package(package, dense_fp32=dense, vendor_int8=vendor.model, batches=BATCHES, seconds=seconds, rounds=rounds)
        accuracy = {"dense_fp32": None, "package": None, "vendor_int8": None}
        if y is not None:
            theirs = vendor_accuracy(vendor, target, x.numpy(), y.numpy())
            accuracy = {"dense_fp32": _accuracy(subject.dense, x, y), "package": gates["accuracy"], "vendor_int8": theirs}
        session = runtime.session_options(target.session_options_without_vnni)
        model = package / manifest["model_file"]
        spent = {f"batch_{size}": shares(profile(model, _repeat(x, size), runtime=target.runtime, options=session)) for size in BATCHES}
    return {
        "subject": subject.name,
        "target": target.name,
        "macs": subject.extracted.macs,
        "dense_macs": subject.extracted.dense_macs,
        "accuracy": accuracy,
        "gates": {key: gates[key] for key in ("output_steps", "top1_agreement", "sqnr_db", "samples")},
        "vendor_int8": vendor_record(vendor, accuracy["vendor_int8"]),
        "times": times,
        "profile": spent,
    }


def shares(events: list[dict[str, Any]]) -> dict[str, float]:
    """Fraction of the profile's time by operation, the largest first; of ONNX Runtime's events or of OpenVINO's nodes."""
    spent: Counter[str] = Counter()
    for event in events:
        if "args" in event:
            spent[event["args"]["op_name"]] += event["dur"]
        else:
            spent[f"{event['operation']} {event['precision']}"] += event["microseconds"]
    total = sum(spent.values())
    return {name: round(time / total, 4) for name, time in spent.most_common() if total and time / total >= 0.005}


def _samples(subject: Subject) -> tuple[NDArray[np.float32], torch.Tensor, torch.Tensor | None]:
    """Calibration inputs, inputs for the gates, and their labels: the whole test part, or random inputs without labels."""
    if subject.data is None:
        return subject.inputs.numpy(), subject.inputs, None
    data = subject.data
    training = normalise(data.train.x[:128], data.mean, data.std)
    return training.numpy(), normalise(data.test.x, data.mean, data.std), data.test.y


def _accuracy(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    with torch.no_grad():
        return float((torch.cat([model(chunk) for chunk in x.split(100)]).argmax(1) == y).float().mean())


def _repeat(x: torch.Tensor, size: int) -> NDArray[np.float32]:
    """A batch of `size` inputs, over and over where there are fewer."""
    return x[torch.arange(size) % len(x)].to(torch.float32).numpy()
