"""`verify` of a finished package: hashes, then the recorded inputs through the runtime. Needs the package, numpy and the runtime, no torch model."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tsn_toolkit.errors import GateError
from tsn_toolkit.export.child import infer
from tsn_toolkit.export.manifest import read_manifest, sha256_of
from tsn_toolkit.export.package import GOLDEN_FILE
from tsn_toolkit.export.runtime import load_runtime
from tsn_toolkit.verify.gates import nearest_reference, output_steps


@dataclass(frozen=True)
class PackageCheck:
    """What verification found.

    Attributes:
        files: number of files whose hash was checked.
        samples: recorded inputs that were run.
        output_steps: largest difference to the recorded outputs, in output steps; None where nothing was run.
        failures: one sentence per failed condition; empty: the package answers as on the day it was made, or was not run.
        not_run: why the runtime cannot run here, or "".
    """

    files: int
    samples: int
    output_steps: float | None
    failures: tuple[str, ...]
    not_run: str = ""

    @property
    def passed(self) -> bool | None:
        """Whether nothing failed; None where nothing was run."""
        return None if self.not_run and not self.failures else not self.failures

    def record(self) -> dict[str, Any]:
        """As `tsn verify` prints it."""
        return {"passed": self.passed, **asdict(self), "failures": list(self.failures)}


def verify_package(folder: Path) -> PackageCheck:
    """Check a package folder.

    Raises:
        GateError: a file is missing, unknown, or not the one the manifest names; or the artefact does not run.
    """
    manifest = read_manifest(folder)
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - {"manifest.json"}
    for name, record in manifest["files"].items():
        if name not in names:
            raise GateError(f"Package `{folder}`: `{name}` is missing. Export the task again.")
        found = sha256_of(folder / name)
        if found != record["sha256"]:
            raise GateError(f"Package `{folder}`: `{name}` has sha256 {found}, not {record['sha256']}: it was changed. Export the task again.")
    unknown = sorted(names - set(manifest["files"]))
    if unknown:
        raise GateError(f"Package `{folder}` holds files the manifest does not name: {', '.join(unknown)}. Remove them.")
    with np.load(folder / GOLDEN_FILE, allow_pickle=False) as golden:
        x, expected = golden["x"].astype(np.float32), golden["y"]
    target = manifest["target"]
    runtime = load_runtime(target["runtime"], target=target["name"])
    if not_run := runtime.cannot_run():
        return PackageCheck(len(manifest["files"]), 0, None, (), not_run)
    options = runtime.session_options(target["session_options_without_vnni"])
    got = infer(folder / manifest["model_file"], x, runtime=target["runtime"], options=options)
    steps = output_steps(got, nearest_reference(got, expected, manifest["output_step"]), manifest["output_step"])
    allowed = target["gates"]["output_steps"]
    failures = ()
    if not steps <= allowed:
        difference = f"the artefact differs from the recorded outputs by {steps:.3g} output steps; allowed are {allowed:g}"
        failures = (f"Gate (a): {difference}. Export the task again.",)
    return PackageCheck(len(manifest["files"]), len(x), steps, failures)
