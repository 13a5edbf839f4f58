"""What an exporter is asked for, and what it hands to the package: files, the reference, and what the manifest says about them."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tsn_toolkit.contracts import ActivationRange, ExtractedModel
from tsn_toolkit.errors import TargetError
from tsn_toolkit.quantizers.activations import IntegerModel, build_integer_model
from tsn_toolkit.target import Target


@dataclass(frozen=True)
class ExportRequest:
    """One task that a runtime is asked to write.

    Attributes:
        extracted: the task's small model with its integers.
        ranges: its activation ranges.
        target: what it is exported for.
        example_input: float32 (batch, ...); its shape without the batch is the model's input shape.
        unit_masks: group -> bool per unit of the pristine model, True = kept; recorded where the package has a place for it.
    """

    extracted: ExtractedModel
    ranges: Mapping[str, ActivationRange]
    target: Target
    example_input: torch.Tensor
    unit_masks: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)

    @property
    def example(self) -> torch.Tensor:
        """One input, float32 (1, ...)."""
        return self.example_input[:1].detach().to(torch.float32)

    def integer_model(self) -> IntegerModel:
        """The integer reference of the task.

        Raises:
            ExportError: the model has no integer form.
        """
        task = self.extracted
        return build_integer_model(task.model, task.q, task.scale, self.example, ranges=self.ranges)


@dataclass(frozen=True)
class Artefact:
    """One exported model.

    Attributes:
        model_file: file name of the model inside the folder it was exported to.
        reference: what the runtime's `admissible_outputs` computes the artefact's arithmetic from.
        input_name, output_name: of the model's graph.
        bytes_by_part: part -> bytes inside the model file; they add up to the file. Of C sources: bytes of the linked program's flash.
        versions: package -> version of everything that shaped the file.
        output_step: step of the output quantizer, None when the output is not quantized.
        quantization: `graph`, `layerwise` (see `quantizers.brevitas_graph`) or `none`.
        notes: one sentence per thing the user should know.
        channels: further entries of the manifest: which channels of a layer differ from the store's integers, and how; what a program occupies.
    """

    model_file: str
    reference: nn.Module
    input_name: str
    output_name: str
    bytes_by_part: Mapping[str, int]
    versions: Mapping[str, str]
    output_step: float | None = None
    quantization: str = "none"
    notes: tuple[str, ...] = ()
    channels: Mapping[str, Any] = field(default_factory=dict)


def require_modules(modules: Sequence[str], *, target: str, install: str) -> None:
    """Check that optional modules are installed, without importing them.

    Raises:
        TargetError: one is not; the message holds the line that installs them.
    """
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        raise TargetError(f"Target `{target}` needs {', '.join(missing)}, which is not installed. Install it: {install}")


def require_runtime(package: str, target: Mapping[str, Any]) -> None:
    """Check that the Python package of a runtime is installed, and as new as its target asks for.

    Args:
        package: see `Runtime.DISTRIBUTION`; "" needs nothing.
        target: as a manifest states it.

    Raises:
        TargetError: it is missing or older; the message holds the line that installs it.
    """
    if not package:
        return
    require_modules((package,), target=target["name"], install=target["install"])
    installed = installed_version(package)
    if installed is None:
        raise TargetError(f"Target `{target['name']}` needs {package}, which is not installed. Install it: {target['install']}")
    if _version(installed) < _version(target["minimum_version"]):
        needed = f"needs {package} >= {target['minimum_version']}, found {installed}"
        raise TargetError(f"Target `{target['name']}` {needed}. Install it: {target['install']}")


def installed_version(package: str) -> str | None:
    """Version of what gives an importable package, whatever it is called (onnxruntime also comes with onnxruntime-gpu); None: nothing does."""
    names = importlib.metadata.packages_distributions().get(package)
    return importlib.metadata.version(package if package in names else names[0]) if names else None


def require_export(target: Target, package: str, writers: Sequence[str]) -> None:
    """Check that all is installed that an export for a target takes.

    Args:
        target: its runtime's version counts.
        package: of the runtime, see `Runtime.DISTRIBUTION`.
        writers: further modules that write the file.

    Raises:
        TargetError: one is missing, or the runtime is older than the target asks for; the message holds the line that installs it.
    """
    require_modules((package, *writers) if package else writers, target=target.name, install=target.install)
    require_runtime(package, target.model_dump())


def _version(text: str) -> tuple[int, ...]:
    """A version's numbers without zeros at their end, so that 1.6 is as new as 1.6.0."""
    numbers = [int(part) for part in text.split("+")[0].split(".") if part.isdigit()]
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)
