"""`verify` of a finished package: hashes, then the recorded inputs through the runtime. Needs the package, numpy and the runtime, no torch model."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tsn_toolkit.errors import GateError
from tsn_toolkit.export.artefact import require_runtime
from tsn_toolkit.export.child import answers
from tsn_toolkit.export.manifest import MANIFEST_FILE, sha256_of
from tsn_toolkit.export.package_folder import checked_manifest, recorded
from tsn_toolkit.export.runtime import load_runtime
from tsn_toolkit.verify.gates import nearest_reference, output_steps

_NAMED_FILES = 8


@dataclass(frozen=True)
class PackageCheck:
    """What verification found.

    Attributes:
        files: number of files whose hash was checked.
        samples: recorded inputs that were run.
        output_steps: largest difference to the recorded outputs, in output steps; None where nothing was run.
        failures: one sentence per failed condition; empty: the package answers as on the day it was made, or was not run.
        emulated_samples: how many of them ran in the target's emulator too; None for a runtime without one.
        warnings: sentences a user should read: why the emulator was left out, which files are none of the package's.
        not_run: why the runtime cannot run here, or "".
    """

    files: int
    samples: int
    output_steps: float | None
    failures: tuple[str, ...]
    emulated_samples: int | None = None
    warnings: tuple[str, ...] = ()
    not_run: str = ""

    @property
    def passed(self) -> bool | None:
        """Whether nothing failed; None where nothing was run."""
        return None if self.not_run and not self.failures else not self.failures

    def record(self) -> dict[str, Any]:
        """As `tsn verify` prints it."""
        return {"passed": self.passed, **asdict(self), "failures": list(self.failures), "warnings": list(self.warnings)}


def verify_package(folder: Path) -> PackageCheck:
    """Check a package folder.

    Raises:
        GateError: a file is missing or not the one the manifest names, the manifest or the recorded inputs are damaged; or the artefact does not run.
        TargetError: the runtime is missing or too old.
    """
    manifest = checked_manifest(folder)
    warnings = _check_files(folder, manifest)
    x, expected = recorded(folder, manifest)
    target, files = manifest["target"], len(manifest["files"])
    runtime = load_runtime(target["runtime"], target=target["name"])
    if not_run := runtime.cannot_run():
        return PackageCheck(files, 0, None, (), warnings=warnings, not_run=not_run)
    require_runtime(runtime.DISTRIBUTION, target)
    options = runtime.session_options(target["session_options_without_vnni"])
    got = answers(folder / manifest["model_file"], x, runtime=target["runtime"], options=options)
    steps = output_steps(got.y, nearest_reference(got.y, expected, manifest["output_step"]), manifest["output_step"])
    allowed = target["gates"]["output_steps"] + manifest.get("tie_steps", 0.0)
    failures: tuple[str, ...] = ()
    if not steps <= allowed:
        difference = f"the artefact differs from the recorded outputs by {steps:.3g} output steps; allowed are {allowed:.3g}"
        failures = (f"Gate (a): {difference}. Export the task again.",)
    if got.left_out:
        warnings = (got.left_out, *warnings)
    return PackageCheck(files, len(x), steps, failures, got.emulated_samples, warnings)


def _check_files(folder: Path, manifest: dict[str, Any]) -> tuple[str, ...]:
    """Compares every file that the manifest names with its hash; a warning about those it does not name, such as what `make` built."""
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - {MANIFEST_FILE}
    for name, record in manifest["files"].items():
        if name not in names:
            raise GateError(f"Package `{folder}`: `{name}` is missing. Export the task again.")
        found = sha256_of(folder / name)
        if found != record["sha256"]:
            raise GateError(f"Package `{folder}`: `{name}` has sha256 {found}, not {record['sha256']}: it was changed. Export the task again.")
    unknown = sorted(names - set(manifest["files"]))
    if not unknown:
        return ()
    listed = ", ".join(unknown[:_NAMED_FILES]) + (f" and {len(unknown) - _NAMED_FILES} more" if len(unknown) > _NAMED_FILES else "")
    return (f"files that the manifest does not name were neither checked nor read: {listed}",)
