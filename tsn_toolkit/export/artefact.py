"""What an exporter hands to the package: files, the integer reference, and what the manifest says about them."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tsn_toolkit.errors import TargetError
from tsn_toolkit.quantizers.activations import IntegerModel


@dataclass(frozen=True)
class Artefact:
    """One exported model.

    Attributes:
        model_file: file name of the model inside the folder it was exported to.
        reference: the integer reference of the artefact's arithmetic.
        input_name, output_name: of the model's graph.
        bytes_by_part: part -> bytes inside the model file; they add up to the file.
        versions: package -> version of everything that shaped the file.
    """

    model_file: str
    reference: IntegerModel
    input_name: str
    output_name: str
    bytes_by_part: Mapping[str, int]
    versions: Mapping[str, str]


def require_modules(modules: Sequence[str], *, target: str, install: str) -> None:
    """Check that optional modules are installed, without importing them.

    Raises:
        TargetError: one is not; the message holds the line that installs them.
    """
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        raise TargetError(f"Target `{target}` needs {', '.join(missing)}, which is not installed. Install it: {install}")


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that it is either whole or not there."""
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    partial.replace(path)
