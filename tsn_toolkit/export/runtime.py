"""What a runtime offers to everything behind `deliver`: one module `export/<runtime>.py` with the members of `Runtime`.

Beside it stands `run_<runtime>.py`, the program that loads the artefact in a process of its own (`export.child`) and calls it in the loops of
`runner.py`. Importing a runtime's module does not import the runtime.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tsn_toolkit.contracts import ExtractedModel
from tsn_toolkit.errors import TargetError
from tsn_toolkit.export.artefact import Artefact, ExportRequest
from tsn_toolkit.export.child import known_runtimes
from tsn_toolkit.export.integer_share import IntegerShare
from tsn_toolkit.export.vendor_int8 import VendorInt8
from tsn_toolkit.registry import did_you_mean


class Runtime(Protocol):
    """The members of a runtime's module."""

    @property
    def MODEL_FILE(self) -> str:
        """File name of its model, of a task's and of the dense baseline's."""
        ...

    @property
    def DISTRIBUTION(self) -> str:
        """Name of its Python package, whose version a manifest states; "" where it is none."""
        ...

    @property
    def REQUIREMENTS(self) -> tuple[str, ...]:
        """What `readme_code` needs beside numpy; the target's `minimum_version` is of the first."""
        ...

    def cannot_run(self) -> str:
        """Why this machine cannot run what is exported here, in the words that a package carries, or ""."""
        ...

    @property
    def VENDOR_INT8(self) -> VendorInt8 | None:
        """The makers' own int8 quantizer, which the dense baseline also goes through; None where there is none."""
        ...

    def export(self, request: ExportRequest, out_dir: Path) -> Artefact:
        """Write one task's model into an existing folder.

        Raises:
            TargetError: the runtime is missing or too old.
            ExportError: the task has no form in this runtime.
        """
        ...

    def rehearse(self, request: ExportRequest) -> None:
        """Raise what `export` is sure to raise of any task of a network, at less cost than a training; see `rehearsal`.

        Args:
            request: as in `export`; its numbers are no task's.

        Raises:
            TargetError, ExportError: as in `export`.
        """
        ...

    def check_weights(self, model: Path, extracted: ExtractedModel, reference: Any) -> None:
        """Compare the weights on disk with the store's.

        Raises:
            ExportError: they differ; layer and channels are named.
        """
        ...

    def admissible_outputs(self, reference: Any, x: torch.Tensor) -> Iterator[tuple[NDArray[np.float32], str]]:
        """Outputs (n, ...) of the artefact's arithmetic for float32 inputs x (n, ...), computed from the store, with the kind of arithmetic.

        One pair for each of the arithmetics that a processor may choose; made when asked for. Kinds: `integer`, `simulated` (integers simulated in
        floats), `float`.
        """
        ...

    def session_options(self, without_vnni: Mapping[str, str]) -> dict[str, str]:
        """Options of every session on this machine.

        Args:
            without_vnni: the target's entries for processors without int8 dot products.
        """
        ...

    def integer_share(self, model: Path, manifest: Mapping[str, Any]) -> IntegerShare | None:
        """Share of multiply-accumulates in integer kernels by the runtime's own profile; None where it computes in floats by design.

        Raises:
            GateError: the artefact does not run, or the profile cannot be read.
        """
        ...

    def export_dense_fp32(self, model: nn.Module, example: torch.Tensor, path: Path) -> None:
        """Write the float32 baseline of sizes and latencies to `path`."""
        ...

    def readme_code(self, manifest: Mapping[str, Any], golden_file: str) -> str:
        """Python for a user: computes `logits` of the recorded inputs in the package's folder, with numpy and `REQUIREMENTS` alone."""
        ...

    def readme_note(self, manifest: Mapping[str, Any]) -> str:
        """What a user must know beside the code, or ""."""
        ...


def load_runtime(name: str, *, target: str) -> Runtime:
    """The module of one runtime.

    Args:
        name: of the runtime, as a target writes it.
        target: name of the target, for the message.

    Raises:
        TargetError: there is no such runtime; the known ones and the nearest are given.
    """
    known = known_runtimes()
    if name not in known:
        raise TargetError(f"Target `{target}`: runtime {name!r} has no exporter{did_you_mean(name, known)}; known: {', '.join(known)}.")
    return cast(Runtime, importlib.import_module(f"tsn_toolkit.export.{name}"))
