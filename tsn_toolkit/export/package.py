"""The folder a user deploys: model, manifest, recorded inputs, README, and what was measured.

    model.onnx      the artefact, or model.pt2 and the files beside it: what the runtime reads
    manifest.json   what the folder holds, with a sha256 for every other file; canonical JSON without time, host or path
    text.json       how a text becomes the model's input, where it reads texts
    golden.npz      `x`: seeded synthetic inputs in the task's range, `y`: the reference's outputs, once for each arithmetic a processor may choose
    README.md       code that loads and runs the model with numpy and the runtime alone
    parity.json     what the gates measured
    bench.json      what the benchmark measured

A package is built in a temporary folder beside its place and renamed when everything is in it, the measurements included.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tsn_toolkit.contracts import ActivationRange, ExtractedModel, TextForm
from tsn_toolkit.errors import ExportError
from tsn_toolkit.export.artefact import Artefact, ExportRequest
from tsn_toolkit.export.golden import input_range, record_inputs
from tsn_toolkit.export.manifest import Preprocessing, add_measurements, describe, read_manifest, write_manifest
from tsn_toolkit.export.readme import readme_text
from tsn_toolkit.export.runtime import Runtime, load_runtime
from tsn_toolkit.export.text_file import write_text_file
from tsn_toolkit.files import write_bytes
from tsn_toolkit.quantizers.ties import tie_spread
from tsn_toolkit.target import Target

GOLDEN_FILE = "golden.npz"
MAX_GOLDEN_SAMPLES = 32

Measure = Callable[[Path, Artefact], Mapping[str, Mapping[str, Any]]]


@dataclass(frozen=True)
class PackageOptions:
    """Settings of a package with their defaults.

    Attributes:
        preprocessing: see `Preprocessing`.
        labels: name or class index of each output.
        text: how a text becomes raw values, written to `text.json`; None where the task reads no text.
        golden_samples: number of recorded inputs, 1 to 32.
        golden_seed: of the recorded inputs.
        unit_masks: group -> bool per unit of the pristine model, True = kept; recorded by runtimes whose package has a place for it.
        recipe: the resolved recipe that the task was learned with, without paths of a machine; empty: not known.
    """

    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    labels: tuple[int | str, ...] = ()
    text: TextForm | None = None
    golden_samples: int = 16
    golden_seed: int = 0
    unit_masks: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Recorded:
    """The reference's outputs for the recorded inputs, the kind of their arithmetic, how far values at the edge of rounding move them, what the
    manifest says of the inputs, and notes on them."""

    outputs: NDArray[np.float32]
    kind: str
    spread: float
    notes: tuple[str, ...]
    inputs: Mapping[str, Any]


def write_package(
    extracted: ExtractedModel,
    ranges: Mapping[str, ActivationRange],
    target: Target,
    folder: Path,
    *,
    example_input: torch.Tensor,
    options: PackageOptions = PackageOptions(),
    measure: Measure | None = None,
) -> dict[str, Any]:
    """Export one task for one target.

    Args:
        extracted: one task's small model with its integers.
        ranges: its activation ranges.
        target: what it is exported for.
        folder: the package's place; must not exist.
        example_input: float32 (batch, ...); its shape is the model's input shape.
        options: see `PackageOptions`.
        measure: called with the finished temporary folder and the artefact before the rename; returns file name -> JSON content, for example
            {"parity.json": ..., "bench.json": ...}. If it raises, there is no package.

    Returns:
        The manifest.

    Raises:
        ExportError: the folder exists, or the task cannot be exported.
        TargetError: the runtime has no exporter or is not installed.
    """
    refuse_existing(folder)
    runtime = load_runtime(target.runtime, target=target.name)
    if not 1 <= options.golden_samples <= MAX_GOLDEN_SAMPLES:
        raise ExportError(f"`golden_samples` must be in 1..{MAX_GOLDEN_SAMPLES}, got {options.golden_samples}.")

    def fill(draft: Path) -> None:
        artefact = runtime.export(ExportRequest(extracted, ranges, target, example_input, options.unit_masks), draft)
        if options.text is not None:
            write_text_file(draft, options.text)
        shape = tuple(example_input.shape[1:])
        recorded = _write_golden(draft, extracted, ranges, runtime, artefact, shape, options)
        manifest = {
            **describe(
                replace(artefact, notes=(*artefact.notes, *recorded.notes)),
                target,
                task=extracted.task,
                preprocessing=options.preprocessing,
                labels=options.labels,
                shape=shape,
                outputs=recorded.outputs,
                arithmetic=recorded.kind,
            ),
            "recorded_inputs": [recorded.inputs],
            "recipe": dict(options.recipe),
            "layers": [{"name": name, "weight_shape": list(codes.shape)} for name, codes in extracted.q.items()],
            "macs": extracted.macs,
            "dense_macs": extracted.dense_macs,
        }
        if recorded.spread:
            manifest["tie_steps"] = round(recorded.spread / manifest["output_step"], 3)
        if extracted.numbers_below:
            manifest["inputs"][0]["below"] = extracted.numbers_below
        write_description(draft, manifest)
        if measure is not None:
            add_measurements(draft, measure(draft, artefact))

    return write_as_a_whole(folder, fill)


def refuse_existing(folder: Path) -> None:
    """A package is written once.

    Raises:
        ExportError: the folder exists.
    """
    if folder.exists():
        raise ExportError(f"Package folder `{folder}` exists already. Remove it or export to another folder.")


def write_as_a_whole(folder: Path, fill: Callable[[Path], None]) -> dict[str, Any]:
    """The manifest of a package that `fill` writes into a temporary folder beside its place; if `fill` raises, nothing is left."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        draft.chmod(0o755)
        fill(draft)
        draft.rename(folder)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return read_manifest(folder)


def write_description(folder: Path, manifest: Mapping[str, Any]) -> None:
    """The README that follows from a manifest, and the manifest itself with the hashes of all other files."""
    target = manifest["target"]
    runtime = load_runtime(target["runtime"], target=target["name"])
    write_bytes(folder / "README.md", readme_text(manifest, runtime, GOLDEN_FILE).encode())
    write_manifest(folder, manifest)


def _write_golden(
    folder: Path,
    extracted: ExtractedModel,
    ranges: Mapping[str, ActivationRange],
    runtime: Runtime,
    artefact: Artefact,
    shape: tuple[int, ...],
    options: PackageOptions,
) -> _Recorded:
    """Record inputs and the reference's outputs."""
    span = input_range(options.preprocessing, extracted, ranges)
    inputs, admissible = record_inputs(
        shape,
        span,
        lambda x: list(runtime.admissible_outputs(artefact.reference, x)),
        lambda found: [(found[0][0], artefact.output_step)],
        count=options.golden_samples,
        seed=options.golden_seed,
    )
    recorded: list[NDArray[np.float32]] = []
    for outputs, _ in admissible:
        if not any(np.array_equal(outputs, earlier) for earlier in recorded):
            recorded.append(outputs)
    np.savez_compressed(folder / GOLDEN_FILE, x=inputs.x, y=np.stack(recorded))
    spread = float(tie_spread(artefact.reference, torch.from_numpy(inputs.x.astype(np.float32))).max())
    return _Recorded(*admissible[0], spread, notes=(inputs.note,) if inputs.note else (), inputs=inputs.record(span))
