"""A package as it is found on disk: whether a folder is one, and whether its manifest and its recorded inputs can be read."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tsn_toolkit.errors import GateError
from tsn_toolkit.export.manifest import MANIFEST_FILE, read_manifest
from tsn_toolkit.export.package import GOLDEN_FILE
from tsn_toolkit.target import Target

_MEND = "Restore it from a copy of the package, or export the task again."
_KEYS = frozenset({"model_file", "target", "files", "output_step"})
_FILES = (GOLDEN_FILE, "parity.json", "bench.json")


class _Entry(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class _File(_Entry):
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class _Tensor(_Entry):
    name: str
    shape: list[int | str] = Field(min_length=2)


class _Toolchain(_Entry):
    compiler: str
    emulator: list[str]


class _Gates(_Entry):
    output_steps: float


class _Target(_Entry):
    name: str
    runtime: str
    minimum_version: str = Field(pattern=r"^\d+(\.\d+)*$")
    install: str
    session_options_without_vnni: dict[str, str]
    toolchain: _Toolchain | None
    gates: _Gates


class _Task(_Entry):
    name: str
    index: int = Field(ge=0, le=255)
    input_step: float = Field(gt=0)
    input_offset: int
    output_step: float = Field(gt=0)
    output_offset: int
    output_size: int = Field(ge=1)


class _Program(_Entry):
    files: list[str]
    tasks: list[_Task] = Field(min_length=1)


class _Manifest(_Entry):
    """What verifying and timing read of a manifest."""

    task: str
    target: _Target
    model_file: str
    arithmetic: str
    inputs: Annotated[list[_Tensor], Field(min_length=1)]
    outputs: Annotated[list[_Tensor], Field(min_length=1)]
    output_step: float = Field(gt=0)
    tie_steps: float = Field(default=0.0, ge=0)
    macs: int
    dense_macs: int
    files: dict[str, _File]
    program: _Program | None = None


def is_package(folder: Path) -> bool:
    """Whether a folder is a package, also one that lacks a file: by the keys of its manifest, or by the files that only packages have."""
    if (folder / "trunk.safetensors").exists():
        return False
    try:
        content = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError):
        content = None
    keys = content.keys() if isinstance(content, dict) else ()
    return bool(_KEYS.intersection(keys)) or any((folder / name).is_file() for name in _FILES)


def checked_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a package, with all that verifying and timing read of it.

    Raises:
        GateError: there is none, it is not one of ours, or a key is missing or malformed; all such keys are given.
    """
    manifest = read_manifest(folder)
    try:
        found = _Manifest.model_validate(manifest)
    except ValidationError as error:
        raise _damaged(folder, [_problem(problem) for problem in error.errors()]) from error
    needed = {"model_file": [found.model_file], "recorded inputs": [GOLDEN_FILE], "program.files": found.program.files if found.program else []}
    problems = [f"- `files`: has no `{name}` ({place})" for place, names in needed.items() for name in names if name not in found.files]
    problems += [f"- `files`: `{name}` is not a path inside the folder" for name in found.files if not _is_inside(name)]
    if found.target.toolchain is not None and found.program is None:
        problems.append("- `program`: the key is missing")
    if problems:
        raise _damaged(folder, problems)
    return manifest


def recorded(folder: Path, manifest: dict[str, Any]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Recorded inputs x (n, ...) and outputs y (arithmetics, n, ...), float32, at least one example.

    Raises:
        GateError: the file cannot be read, or does not hold what the manifest's shapes say.
    """
    path = folder / GOLDEN_FILE
    try:
        with np.load(path, allow_pickle=False) as golden:
            x, y = golden["x"].astype(np.float32), golden["y"].astype(np.float32)
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise GateError(f"Package `{folder}`: `{GOLDEN_FILE}` is no npz file with the arrays `x` and `y` ({error}). {_MEND}") from error
    given, wanted = (tuple(manifest[kind][0]["shape"][1:]) for kind in ("inputs", "outputs"))
    if x.shape[1:] != given or y.shape[1:] != (len(x), *wanted) or not x.size or not y.size:
        found = f"x {x.shape} and y {y.shape}"
        rule = f"x must be (n, {_sizes(given)}) and y (arithmetics, n, {_sizes(wanted)}) with n >= 1"
        raise GateError(f"Package `{folder}`: `{GOLDEN_FILE}` holds {found}; by {MANIFEST_FILE} {rule}. {_MEND}")
    return x, y


def target_of(folder: Path, manifest: dict[str, Any]) -> Target:
    """The target that a package was made for.

    Raises:
        GateError: the manifest's entry is not one that this version knows.
    """
    try:
        return Target.model_validate(manifest["target"])
    except ValidationError as error:
        problems = [{**problem, "loc": ("target", *problem["loc"])} for problem in error.errors()]
        raise _damaged(folder, [_problem(problem) for problem in problems]) from error


def _damaged(folder: Path, problems: list[str]) -> GateError:
    return GateError(f"Package `{folder}`: {MANIFEST_FILE} has {len(problems)} problem(s):\n" + "\n".join(problems) + f"\n{_MEND}")


def _problem(problem: Any) -> str:
    place = ".".join(str(part) for part in problem["loc"])
    return f"- `{place}`: " + ("the key is missing" if problem["type"] == "missing" else f"{problem['msg']}, got {problem['input']!r:.80}")


def _is_inside(name: str) -> bool:
    path = Path(name)
    return not path.is_absolute() and ".." not in path.parts


def _sizes(shape: tuple[int | str, ...]) -> str:
    return ", ".join(str(size) for size in shape)
