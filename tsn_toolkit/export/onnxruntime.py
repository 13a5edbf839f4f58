"""ONNX Runtime on the CPU: int8 QDQ ONNX, its arithmetic on integers, its profile. See `export.runtime` for what each function is for."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tsn_toolkit.errors import ExportError, GateError
from tsn_toolkit.export import integer_onnx
from tsn_toolkit.export.artefact import Artefact, ExportRequest, require_export
from tsn_toolkit.export.child import profile
from tsn_toolkit.export.int4_onnx import int4_layers, narrow_linear_layers_
from tsn_toolkit.export.integer_interpreter import admissible_by
from tsn_toolkit.export.integer_share import IntegerShare, layer_of
from tsn_toolkit.export.onnxruntime_arithmetic import ORDERS, OnnxRuntimeArithmetic
from tsn_toolkit.export.processor import INT8_DOT_FLAGS, session_entries
from tsn_toolkit.export.qdq_graph import shift_signed_activations_
from tsn_toolkit.export.rehearsal import by_exporting
from tsn_toolkit.export.vendor_int8 import VendorInt8
from tsn_toolkit.quantizers.activations import IntegerModel

MODEL_FILE = integer_onnx.MODEL_FILE
DISTRIBUTION = "onnxruntime"
REQUIREMENTS = ("onnxruntime",)
check_weights = integer_onnx.check_weights
export_dense_fp32 = integer_onnx.export_dense_fp32
admissible_outputs = admissible_by(*(partial(OnnxRuntimeArithmetic, order=order) for order in ORDERS))

VENDOR_INT8 = VendorInt8(
    tool="onnxruntime.quantization.quantize_static: QDQ, weights per channel, min-max ranges",
    modules=("onnx", "onnxruntime"),
    install="pip install onnx onnxruntime",
    write_source=export_dense_fp32,
    source_file=MODEL_FILE,
    model_file=MODEL_FILE,
)
_INTEGER = frozenset(
    {"QLinearConv", "ConvInteger", "QGemm", "QLinearMatMul", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "MatMulNBits"}
)
_FLOAT = frozenset({"Conv", "FusedConv", "NhwcFusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul", "ConvTranspose"})
_PRODUCTS = frozenset({"MatMul", "FusedMatMul", "QLinearMatMul", "MatMulInteger", "MatMulIntegerToFloat"})
"""What may also multiply two activations, as attention does."""
_SUPPORTING = frozenset({"QuantizeLinear", "DequantizeLinear", "Transpose", "Flatten", "Reshape", "Squeeze", "Unsqueeze", "Identity"})

_README_CODE = """\
import pathlib

import numpy as np
import onnxruntime

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
{entries}session = onnxruntime.InferenceSession("{model_file}", options, providers=["CPUExecutionProvider"])

golden = np.load("{golden_file}")
logits = session.run(["{output_name}"], {{"{input_name}": golden["x"].astype(np.float32)}})[0]
"""


def cannot_run() -> str:
    """Never: what can be exported can be run."""
    return ""


def export(request: ExportRequest, out_dir: Path) -> Artefact:
    """Write `model.onnx`; linear layers that the target wants in 4 bits (`int4_onnx`) leave the int8 form.

    Raises:
        TargetError, ExportError: as `integer_onnx.export`.
    """
    require_export(request.target, DISTRIBUTION, integer_onnx.WRITERS)

    def adapt_(proto: Any, reference: IntegerModel) -> None:
        _refuse_ceilings(proto)
        shift_signed_activations_(proto)
        reference.blocks = int4_layers(request.extracted, reference, request.target)
        narrow_linear_layers_(proto, reference, reference.blocks)

    return integer_onnx.write(request, out_dir, adapt_=adapt_)


rehearse = by_exporting(export)


def _refuse_ceilings(proto: Any) -> None:
    """The integer kernel of an average counts the cells that a window has beyond its input, and torch does not."""
    for node in proto.graph.node:
        if node.op_type == "AveragePool" and any(attribute.name == "ceil_mode" and attribute.i for attribute in node.attribute):
            raise ExportError(
                f"Average pooling `{node.name}` rounds its output size up, and ONNX Runtime's integer kernel divides the last window otherwise than "
                "torch. Set ceil_mode=False, or choose sizes that its windows fit."
            )


def session_options(without_vnni: Mapping[str, str]) -> dict[str, str]:
    """The target's entries where this processor needs them."""
    return session_entries(without_vnni)


def integer_share(model: Path, manifest: Mapping[str, Any]) -> IntegerShare:
    """Share of the multiply-accumulates of one example in integer kernels, by ONNX Runtime's profiler in another process."""
    x = np.zeros([1, *manifest["inputs"][0]["shape"][1:]], np.float32)
    options = session_options(manifest["target"]["session_options_without_vnni"])
    return share_of(profile(model, x, runtime="onnxruntime", options=options), {layer["name"]: layer["weight_shape"] for layer in manifest["layers"]})


def share_of(events: list[dict[str, Any]], weight_shapes: Mapping[str, list[int]]) -> IntegerShare:
    """The share from the profiler's node events.

    Args:
        events: one per executed node, names as in the model file: a layer's node is named after the layer.
        weight_shapes: layer -> shape of its weight, (out, in / groups, ...).

    Raises:
        GateError: an operation with a weight belongs to no layer, so that its MACs are unknown.
    """
    operations: Counter[str] = Counter()
    integer = total = 0
    stays_float = []
    for event in events:
        operation, name = event["args"]["op_name"], event["name"].removesuffix("_kernel_time")
        operations[operation] += 1
        if operation in _INTEGER or operation in _FLOAT:
            macs = _product_macs(event["args"]) if operation in _PRODUCTS else None
            if macs is None:
                layer = layer_of(name, weight_shapes)
                macs = math.prod(_single_shape(event["args"]["output_type_shape"])) * math.prod(weight_shapes[layer][1:])
            total += macs
            integer += macs if operation in _INTEGER else 0
        if operation not in _INTEGER and operation not in _SUPPORTING and not operation.startswith("QLinear") and _reads_float(event):
            stays_float.append(f"{operation} {name}")
    if total == 0:
        raise GateError("The runtime's profile holds no convolution or matrix product, so no share of integer kernels can be stated.")
    return IntegerShare(integer / total, integer, total, dict(sorted(operations.items())), tuple(stays_float))


def readme_code(manifest: Mapping[str, Any], golden_file: str) -> str:
    """Python that computes `logits` of the recorded inputs with numpy and onnxruntime alone."""
    return _README_CODE.format(
        entries=_entries(manifest["target"]["session_options_without_vnni"]),
        model_file=manifest["model_file"],
        golden_file=golden_file,
        input_name=manifest["inputs"][0]["name"],
        output_name=manifest["outputs"][0]["name"],
    )


def readme_note(manifest: Mapping[str, Any]) -> str:
    """Why the session entry must stay, or ""."""
    if not manifest["target"]["session_options_without_vnni"]:
        return ""
    return "Keep the session entry in your own code: on x86 without VNNI answers are wrong without it, elsewhere it costs time."


def _entries(without_vnni: Mapping[str, str]) -> str:
    """Code that sets the session entries where the processor needs them."""
    if not without_vnni:
        return ""
    lines = [
        'cpuinfo = pathlib.Path("/proc/cpuinfo")',
        "flags = cpuinfo.read_text().split() if cpuinfo.exists() else []",
        f"if not any(flag in flags for flag in {INT8_DOT_FLAGS!r}):",
        *(f'    options.add_session_config_entry("{entry}", "{value}")' for entry, value in sorted(without_vnni.items())),
    ]
    return "\n".join(lines) + "\n"


def _single_shape(types: list[dict[str, list[int]]]) -> list[int]:
    return next(iter(types[0].values()))


def _product_macs(shapes: Mapping[str, list[dict[str, list[int]]]]) -> int | None:
    """Multiply-accumulates of a product of two activations; None where one factor is a matrix, that is a layer's weight.

    Activations carry the batch, so theirs have three dimensions or more; scales and zero points among the inputs have fewer. A factor may be read
    transposed, so the summed length is what the first one has beside the rows of the result.
    """
    factors = [shape for shape in (_single_shape([types]) for types in shapes["input_type_shape"]) if len(shape) >= 3]
    if len(factors) < 2:
        return None
    first = factors[0]
    result = _single_shape(shapes["output_type_shape"])
    return math.prod(result) * (first[-2] * first[-1] // result[-2])


def _reads_float(event: dict[str, Any]) -> bool:
    inputs = event["args"]["input_type_shape"]
    return bool(inputs) and "float" in inputs[0]
