"""The folder a user deploys: model, manifest, recorded inputs, README, and what was measured.

    model.onnx      the artefact, or model.pt2 and the files beside it: what the runtime reads
    manifest.json   what the folder holds, with a sha256 for every other file; canonical JSON without time, host or path
    golden.npz      `x`: seeded synthetic inputs, `y`: outputs of the reference, once for each arithmetic that a processor may choose
    README.md       code that loads and runs the model with numpy and the runtime alone
    parity.json     what the gates measured
    bench.json      what the benchmark measured

A package is built in a temporary folder beside its place and renamed when everything is in it, the measurements included.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import math
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tsn_toolkit import __version__
from tsn_toolkit.contracts import ActivationRange, ExtractedModel
from tsn_toolkit.errors import ExportError, GateError
from tsn_toolkit.export.artefact import Artefact, write_atomically
from tsn_toolkit.export.readme import readme_text
from tsn_toolkit.export.runtime import Runtime, load_runtime
from tsn_toolkit.target import Target

SCHEMA_VERSION = 1
MANIFEST_FILE = "manifest.json"
GOLDEN_FILE = "golden.npz"
MAX_GOLDEN_SAMPLES = 32

Measure = Callable[[Path, Artefact], Mapping[str, Mapping[str, Any]]]


@dataclass(frozen=True)
class Preprocessing:
    """What a user must do to raw data before the model.

    Attributes:
        mean, std: per channel, applied after `scaling`; empty: none.
        scaling: factor on raw values, 1/255 for uint8 images.
    """

    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    scaling: float = 1.0


@dataclass(frozen=True)
class PackageOptions:
    """Settings of a package with their defaults.

    Attributes:
        preprocessing: see `Preprocessing`.
        labels: name or class index of each output.
        golden_samples: number of recorded inputs, 1 to 32.
        golden_seed: of the recorded inputs.
        unit_masks: group -> bool per unit of the pristine model, True = kept; recorded by runtimes whose package has a place for it.
        recipe: the resolved recipe that the task was learned with, without paths of a machine; empty: not known.
    """

    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    labels: tuple[int | str, ...] = ()
    golden_samples: int = 16
    golden_seed: int = 0
    unit_masks: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)


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
    if folder.exists():
        raise ExportError(f"Package folder `{folder}` exists already. Remove it or export to another folder.")
    runtime = load_runtime(target.runtime, target=target.name)
    if not 1 <= options.golden_samples <= MAX_GOLDEN_SAMPLES:
        raise ExportError(f"`golden_samples` must be in 1..{MAX_GOLDEN_SAMPLES}, got {options.golden_samples}.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        draft.chmod(0o755)
        artefact = runtime.export(extracted, ranges, target, draft, example_input=example_input, unit_masks=options.unit_masks)
        shape = tuple(example_input.shape[1:])
        outputs, kind = _write_golden(draft, runtime, artefact, shape, options)
        manifest = _manifest(extracted, target, runtime, artefact, shape, outputs, kind, options)
        write_atomically(draft / "README.md", readme_text(manifest, runtime, GOLDEN_FILE).encode())
        _write_manifest(draft, manifest)
        if measure is not None:
            manifest = add_measurements(draft, measure(draft, artefact))
        draft.rename(folder)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return read_manifest(folder)


def add_measurements(folder: Path, contents: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Write measured JSON files into a package, and them and their hashes into the manifest (`parity`, `bench`, `accuracy`), which is returned."""
    manifest = read_manifest(folder)
    for name, content in contents.items():
        write_atomically(folder / name, canonical_json(content))
        manifest[Path(name).stem] = content
    if "parity.json" in contents:
        manifest["accuracy"] = contents["parity.json"].get("accuracy")
    _write_manifest(folder, manifest)
    return read_manifest(folder)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a package.

    Raises:
        GateError: there is none, or it is not one of ours.
    """
    path = folder / MANIFEST_FILE
    if not path.is_file():
        raise GateError(f"`{folder}` is not a package: it has no {MANIFEST_FILE}.")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise GateError(f"`{path}` is not JSON: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("schema_version") != SCHEMA_VERSION:
        found = manifest.get("schema_version") if isinstance(manifest, dict) else type(manifest).__name__
        raise GateError(f"`{path}` must have schema_version {SCHEMA_VERSION}, got {found!r}. Export the task with this version of the toolkit.")
    return manifest


def golden_inputs(shape: tuple[int, ...], count: int = 16, seed: int = 0) -> NDArray[np.float16]:
    """Seeded standard normal inputs (count, *shape), in float16 which holds them exactly as they are used."""
    generator = np.random.Generator(np.random.PCG64(seed))
    return generator.standard_normal((count, *shape)).astype(np.float16)


def sha256_of(path: Path) -> str:
    """Hexadecimal sha256 of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def canonical_json(content: Mapping[str, Any]) -> bytes:
    """JSON with sorted keys and one final newline; numbers that are not finite become null, which JSON has and NaN it has not."""
    return (json.dumps(_finite(content), sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _runtime_versions(runtime: Runtime) -> dict[str, str]:
    """Of this package and of the runtime's Python package, where it has one and it is installed."""
    versions = {"tsn-toolkit": __version__}
    if runtime.DISTRIBUTION:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[runtime.DISTRIBUTION] = importlib.metadata.version(runtime.DISTRIBUTION)
    return versions


def _write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST_FILE)
    files = {path.relative_to(folder).as_posix(): {"sha256": sha256_of(path), "bytes": path.stat().st_size} for path in paths}
    write_atomically(folder / MANIFEST_FILE, canonical_json({**manifest, "files": files}))


def _write_golden(
    folder: Path, runtime: Runtime, artefact: Artefact, shape: tuple[int, ...], options: PackageOptions
) -> tuple[NDArray[np.float32], str]:
    """Record inputs and the reference's outputs."""
    x = golden_inputs(shape, options.golden_samples, options.golden_seed)
    recorded: list[NDArray[np.float32]] = []
    admissible = list(runtime.admissible_outputs(artefact.reference, torch.from_numpy(x.astype(np.float32))))
    for outputs, _ in admissible:
        if not any(np.array_equal(outputs, earlier) for earlier in recorded):
            recorded.append(outputs)
    np.savez_compressed(folder / GOLDEN_FILE, x=x, y=np.stack(recorded))
    return admissible[0]


def _manifest(
    extracted: ExtractedModel,
    target: Target,
    runtime: Runtime,
    artefact: Artefact,
    shape: tuple[int, ...],
    outputs: NDArray[np.float32],
    kind: str,
    options: PackageOptions,
) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "task": extracted.task,
        "recipe": dict(options.recipe),
        "target": target.model_dump(mode="json"),
        "model_file": artefact.model_file,
        "arithmetic": kind,
        "not_run": runtime.cannot_run(),
        "quantization": artefact.quantization,
        "notes": list(artefact.notes),
        **artefact.channels,
        "inputs": [{"name": artefact.input_name, "dtype": "float32", "shape": ["batch", *shape]}],
        "outputs": [{"name": artefact.output_name, "dtype": "float32", "shape": ["batch", *outputs.shape[1:]]}],
        "output_step": _output_step(artefact, target, outputs, kind),
        "preprocessing": {
            "scaling": options.preprocessing.scaling,
            "mean": list(options.preprocessing.mean),
            "std": list(options.preprocessing.std),
        },
        "labels": list(options.labels),
        "layers": [{"name": name, "weight_shape": list(codes.shape)} for name, codes in extracted.q.items()],
        "bytes_by_part": dict(artefact.bytes_by_part),
        "macs": extracted.macs,
        "dense_macs": extracted.dense_macs,
        "versions": {**artefact.versions, **_runtime_versions(runtime)},
    }


def _output_step(artefact: Artefact, target: Target, outputs: NDArray[np.float32], kind: str) -> float:
    """What gate (a) counts in: the output quantizer's step, or what stands in for it where there is no such quantizer."""
    if artefact.output_step is not None:
        return artefact.output_step
    largest = float(np.abs(outputs).max())
    return largest * target.gates.float_error if kind == "float" else largest / 127
