"""What a package's manifest says: the artefact, its target, what surrounds the model, and a sha256 for every other file of the folder."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tsn_toolkit import __version__
from tsn_toolkit.errors import GateError
from tsn_toolkit.export.artefact import Artefact, installed_version
from tsn_toolkit.export.runtime import Runtime, load_runtime
from tsn_toolkit.files import write_bytes
from tsn_toolkit.target import Target

SCHEMA_VERSION = 1
MANIFEST_FILE = "manifest.json"


@dataclass(frozen=True)
class Preprocessing:
    """What a user must do to raw data before the model.

    Attributes:
        mean, std: per channel, applied after `scaling`; empty: none.
        scaling: factor on raw values, 1/255 for uint8 images.
        steps: phrases for what comes before, in order.
        text_file: file of the package that says how a text becomes raw values; None where they are no text.
    """

    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    scaling: float = 1.0
    steps: tuple[str, ...] = ()
    text_file: str | None = None

    def record(self) -> dict[str, Any]:
        """As a manifest states it."""
        return {
            "steps": list(self.steps),
            "text_file": self.text_file,
            "scaling": self.scaling,
            "mean": list(self.mean),
            "std": list(self.std),
        }


def describe(
    artefact: Artefact,
    target: Target,
    *,
    task: str,
    preprocessing: Preprocessing,
    labels: Sequence[int | str],
    shape: tuple[int, ...],
    outputs: NDArray[np.float32],
    arithmetic: str,
) -> dict[str, Any]:
    """What every manifest says of an artefact.

    Args:
        artefact: as the runtime exported it.
        target: what it is for.
        task: its name, or the names of all tasks of one program.
        preprocessing: what a user must do to raw data.
        labels: name or class index of each output.
        shape: of one input, without the batch.
        outputs: of the reference for the recorded inputs, (n, ...).
        arithmetic: see `Runtime.admissible_outputs`.
    """
    runtime = load_runtime(target.runtime, target=target.name)
    return {
        "schema_version": SCHEMA_VERSION,
        "task": task,
        "target": target.model_dump(mode="json"),
        "model_file": artefact.model_file,
        "arithmetic": arithmetic,
        "not_run": runtime.cannot_run(),
        "quantization": artefact.quantization,
        "notes": list(artefact.notes),
        **artefact.channels,
        "inputs": [{"name": artefact.input_name, "dtype": "float32", "shape": ["batch", *shape]}],
        "outputs": [{"name": artefact.output_name, "dtype": "float32", "shape": ["batch", *outputs.shape[1:]]}],
        "output_step": _output_step(artefact, target, outputs, arithmetic),
        "preprocessing": preprocessing.record(),
        "labels": list(labels),
        "bytes_by_part": dict(artefact.bytes_by_part),
        "versions": {**artefact.versions, **_runtime_versions(runtime)},
    }


def add_measurements(folder: Path, contents: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Write measured JSON files into a package, and them and their hashes into the manifest (`parity`, `bench`, `accuracy`), which is returned."""
    manifest = read_manifest(folder)
    for name, content in contents.items():
        write_bytes(folder / name, canonical_json(content))
        manifest[Path(name).stem] = content
    if "parity.json" in contents:
        manifest["accuracy"] = contents["parity.json"].get("accuracy")
    write_manifest(folder, manifest)
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
        raise GateError(f"`{path}` is not JSON: {error}. Restore it from a copy of the package, or export the task again.") from error
    if not isinstance(manifest, dict) or manifest.get("schema_version") != SCHEMA_VERSION:
        found = manifest.get("schema_version") if isinstance(manifest, dict) else type(manifest).__name__
        raise GateError(f"`{path}` must have schema_version {SCHEMA_VERSION}, got {found!r}. Export the task with this version of the toolkit.")
    return manifest


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
    installed = installed_version(runtime.DISTRIBUTION) if runtime.DISTRIBUTION else None
    return {"tsn-toolkit": __version__} | ({} if installed is None else {runtime.DISTRIBUTION: installed})


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write it, with the hashes and sizes of all other files of the folder."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST_FILE)
    files = {path.relative_to(folder).as_posix(): {"sha256": sha256_of(path), "bytes": path.stat().st_size} for path in paths}
    write_bytes(folder / MANIFEST_FILE, canonical_json({**manifest, "files": files}))


def _output_step(artefact: Artefact, target: Target, outputs: NDArray[np.float32], kind: str) -> float:
    """What gate (a) counts in: the output quantizer's step, or what stands in for it where there is no such quantizer.

    That is a fraction of the reference's largest |output| on the recorded inputs, which lie in the task's own range; outputs of real
    examples may be larger.
    """
    if artefact.output_step is not None:
        return artefact.output_step
    largest = float(np.abs(outputs).max())
    return largest * target.gates.float_error if kind == "float" else largest / 127
