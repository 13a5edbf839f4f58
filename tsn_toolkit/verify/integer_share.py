"""Which share of a package's multiply-accumulates runs in integer kernels, by its runtime's own profile."""

from __future__ import annotations

from pathlib import Path

from tsn_toolkit.export.integer_share import IntegerShare
from tsn_toolkit.export.manifest import read_manifest
from tsn_toolkit.export.runtime import load_runtime


def integer_share(folder: Path) -> IntegerShare | None:
    """Profile one example of a package in another process.

    Args:
        folder: the package.

    Returns:
        The share, or None for a runtime that computes in floats by design.

    Raises:
        GateError: the artefact does not run, or the profile names no layer of the manifest.
    """
    manifest = read_manifest(folder)
    target = manifest["target"]
    return load_runtime(target["runtime"], target=target["name"]).integer_share(folder / manifest["model_file"], manifest)
