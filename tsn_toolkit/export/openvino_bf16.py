"""OpenVINO on processors with bfloat16 instructions: float ONNX with the store's int8 weights. See `export.runtime` for what each function is for.

Nothing is calibrated and no activation is an integer, so this suits models that lose by int8 activations. On other processors OpenVINO computes the
same file in float32 without a word; a package that was made there says "not run here".
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from tsn_toolkit.export import float_onnx, integer_onnx
from tsn_toolkit.export import openvino as integer
from tsn_toolkit.export import torch as program
from tsn_toolkit.export.artefact import Artefact, ExportRequest, require_export
from tsn_toolkit.export.rehearsal import by_exporting

MODEL_FILE = integer_onnx.MODEL_FILE
DISTRIBUTION = integer.DISTRIBUTION
REQUIREMENTS = integer.REQUIREMENTS
VENDOR_INT8 = None  # the integer target stands beside it
check_weights = float_onnx.check_weights
admissible_outputs = program.admissible_outputs
export_dense_fp32 = integer_onnx.export_dense_fp32

_BFLOAT16 = {"INFERENCE_PRECISION_HINT": "bf16"}


@cache
def cannot_run() -> str:
    """Without bfloat16 instructions the numbers would be those of float32."""
    try:
        import openvino
    except ImportError:
        return "not run here: openvino is not installed"
    able = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return "" if "BF16" in able else "not run here: the processor has no bfloat16 instructions, and OpenVINO would compute in float32"


def export(request: ExportRequest, out_dir: Path) -> Artefact:
    """Write `model.onnx`; ranges play no part in floats, and an ONNX file has no place for unit masks.

    Raises:
        TargetError: a package is missing or too old, or the target names no opset.
        ExportError: as in `float_onnx.write`.
    """
    require_export(request.target, DISTRIBUTION, float_onnx.WRITERS)
    return float_onnx.write(request, out_dir)


rehearse = by_exporting(export)


def session_options(without_vnni: Mapping[str, str]) -> dict[str, str]:
    """The precision, which OpenVINO would else choose by processor."""
    return dict(_BFLOAT16)


def integer_share(model: Path, manifest: Mapping[str, Any]) -> None:
    """None: activations are floats by design."""
    return None


def readme_code(manifest: Mapping[str, Any], golden_file: str) -> str:
    """Python that computes `logits` of the recorded inputs with numpy and openvino alone."""
    settings = {**_BFLOAT16, "INFERENCE_NUM_THREADS": 1}
    return integer.README_CODE.format(settings=settings, model_file=manifest["model_file"], golden_file=golden_file)


def readme_note(manifest: Mapping[str, Any]) -> str:
    """What the precision rests on."""
    return (
        "On a processor without bfloat16 instructions OpenVINO computes this file in float32: more exact, and no faster than a float32 model. "
        f"An output step stands for {manifest['target']['gates']['float_error']:g} of the largest recorded output."
    )
