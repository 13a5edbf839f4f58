"""From one extracted task to one verified package: export, both gates, profile, benchmark; a package exists only when all of it went well."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tsn_toolkit.bench.latency import bench_onnxruntime
from tsn_toolkit.contracts import ActivationRange, ExtractedModel, TaskData
from tsn_toolkit.data.normalisation import normalise
from tsn_toolkit.errors import GateError
from tsn_toolkit.export.artefact import Artefact
from tsn_toolkit.export.onnxruntime import export_dense_fp32
from tsn_toolkit.export.package import PackageOptions, Preprocessing, write_package
from tsn_toolkit.recipe.schema import Recipe
from tsn_toolkit.target import Target
from tsn_toolkit.verify.gates import run_gates
from tsn_toolkit.verify.integer_share import integer_share


@dataclass(frozen=True)
class ExportedTask:
    """A package and what was measured of it.

    Attributes:
        path: the package's folder.
        parity: content of parity.json, with `passed` and `integer_mac_share`.
        latency_ms: `batch_<n>` -> median, q1, q3 and the same of dense fp32.
        model_bytes: size of the model file.
        warnings: one sentence each.
    """

    path: Path
    parity: Mapping[str, Any]
    latency_ms: Mapping[str, Any]
    model_bytes: int
    warnings: tuple[str, ...]


def export_task(
    extracted: ExtractedModel,
    ranges: Mapping[str, ActivationRange],
    target: Target,
    folder: Path,
    *,
    data: TaskData,
    recipe: Recipe,
    dense: nn.Module,
) -> ExportedTask:
    """Write and measure the package of one task for one target.

    Args:
        extracted: the task's small model.
        ranges: its stored activation ranges.
        target: what to export for.
        folder: the package's place; must not exist.
        data: the task's data; the gates see the first 500 test examples, accuracy is of all of them.
        recipe: its `bench` section holds.
        dense: the dense float32 model of the task, timed beside the package.

    Raises:
        ExportError, TargetError: the task cannot be exported.
        GateError: a gate failed or too few MACs are in integer kernels; there is no package then.
    """
    x = normalise(data.test.x, data.mean, data.std)
    warnings: list[str] = []
    measured: dict[str, Any] = {}

    def measure(draft: Path, artefact: Artefact) -> Mapping[str, Mapping[str, Any]]:
        parity = run_gates(draft, extracted, artefact.reference, target, x, data.test.y)
        share = integer_share(draft)
        if share.share < target.gates.integer_share:
            warnings.append(
                f"{share.share:.3f} of the multiply-accumulates run in integer kernels, less than {target.gates.integer_share:g}; "
                f"in float: {', '.join(share.stays_float)}."
            )
        if not parity.passed:
            raise GateError(f"Task `{extracted.task}` for target `{target.name}` is not exported. " + " ".join(parity.failures))
        measured["parity"] = {**dataclasses.asdict(parity), "passed": True, "integer_mac_share": share.share, "operations": dict(share.operations)}
        files: dict[str, Mapping[str, Any]] = {"parity.json": {**measured["parity"], "stays_float": list(share.stays_float)}}
        measured["bench"] = files["bench.json"] = _bench(draft, dense, x, target, recipe)
        return files

    scaling = 1 / 255 if data.test.x.dtype == torch.uint8 else 1.0
    options = PackageOptions(Preprocessing(tuple(data.mean), tuple(data.std), scaling), tuple(data.classes))
    manifest = write_package(extracted, ranges, target, folder, example_input=x[:1], options=options, measure=measure)
    times = measured.get("bench", {})
    return ExportedTask(
        path=folder,
        parity=measured["parity"],
        latency_ms={key: value for key, value in times.items() if key.startswith("batch_")},
        model_bytes=manifest["files"][manifest["model_file"]]["bytes"],
        warnings=tuple(manifest["notes"]) + tuple(warnings) + tuple(times.get("warnings", ())),
    )


def _bench(draft: Path, dense: nn.Module, x: Tensor, target: Target, recipe: Recipe) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="tsn-") as folder:
        baseline = Path(folder) / "dense_fp32.onnx"
        export_dense_fp32(dense, x[:1], baseline, opset=target.opset or 17)
        settings = recipe.bench
        return bench_onnxruntime(draft, dense_fp32=baseline, threads=settings.threads, batches=settings.batches, seconds=settings.seconds)
