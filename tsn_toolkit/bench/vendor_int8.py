"""The dense float32 model through the runtime makers' own int8 quantizer: the baseline that a package has to beat."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tsn_toolkit.errors import GateError
from tsn_toolkit.export.child import infer, quantize
from tsn_toolkit.export.processor import processor_has_vnni
from tsn_toolkit.export.runtime import load_runtime
from tsn_toolkit.files import folder_bytes
from tsn_toolkit.target import Target

CALIBRATION_SAMPLES = 128


@dataclass(frozen=True)
class VendorBaseline:
    """What came of the tool.

    Attributes:
        model: the int8 model in the runtime's own format, None where there is none.
        tool: name and settings of the tool, "" where the runtime has none.
        seven_bit_weights: whether its weights take half the range, as its makers advise for processors without VNNI.
        size_bytes: of the model's files.
        skipped: why there is no model, "" where there is one.
    """

    model: Path | None
    tool: str
    seven_bit_weights: bool
    size_bytes: int
    skipped: str = ""


def vendor_int8(dense: nn.Module, calibration: NDArray[np.float32], target: Target, folder: Path) -> VendorBaseline:
    """Quantize the dense model as the runtime's makers would.

    Args:
        dense: the float32 model; left as it is.
        calibration: training inputs (n, ...), normalised; the first 128 are used.
        target: whose runtime.
        folder: an existing folder for the files.

    Returns:
        The baseline; where the tool is missing or refuses the model, the reason in `skipped`.
    """
    vendor = load_runtime(target.runtime, target=target.name).VENDOR_INT8
    if vendor is None:
        return VendorBaseline(None, "", False, 0, f"{target.runtime} has no int8 quantizer of its own for this target")
    missing = [module for module in vendor.modules if importlib.util.find_spec(module) is None]
    if missing:
        return VendorBaseline(None, vendor.tool, False, 0, f"{', '.join(missing)} is not installed; install it: {vendor.install}")
    source, made = folder / "source", folder / "made"
    source.mkdir()
    made.mkdir()
    halved = vendor.saturates_without_vnni and not processor_has_vnni()
    try:
        vendor.write_source(dense, torch.from_numpy(calibration[:1]), source / vendor.source_file)
        quantize(
            source / vendor.source_file,
            calibration[:CALIBRATION_SAMPLES],
            made / vendor.model_file,
            runtime=target.runtime,
            seven_bit_weights=halved,
        )
    except GateError as error:
        return VendorBaseline(None, vendor.tool, halved, 0, str(error))
    return VendorBaseline(made / vendor.model_file, vendor.tool, halved, folder_bytes(made))


def vendor_accuracy(baseline: VendorBaseline, target: Target, x: NDArray[np.float32], y: NDArray[np.int64]) -> float | None:
    """Top-1 accuracy of the baseline on inputs x (n, ...) with labels y (n,), in its own runtime; None where there is no model."""
    if baseline.model is None:
        return None
    options = load_runtime(target.runtime, target=target.name).session_options({})
    logits = infer(baseline.model, x, runtime=target.runtime, options=options)
    return float((logits.argmax(1) == y).mean())
