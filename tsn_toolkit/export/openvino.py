"""OpenVINO on the CPU: the same int8 QDQ ONNX, read by OpenVINO itself. See `export.runtime` for what each function is for.

OpenVINO's low-precision transformations turn DequantizeLinear - Conv - QuantizeLinear into u8 x i8 convolutions only where nothing stands between an
INT8 constant and its DequantizeLinear; the folded Clips of `qdq_graph` see to that.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tsn_toolkit.errors import GateError
from tsn_toolkit.export import integer_onnx
from tsn_toolkit.export.child import profile
from tsn_toolkit.export.integer_interpreter import admissible_by
from tsn_toolkit.export.integer_share import IntegerShare, layer_of
from tsn_toolkit.export.openvino_arithmetic import FUSIONS, OpenVinoArithmetic
from tsn_toolkit.export.processor import session_entries
from tsn_toolkit.export.rehearsal import by_exporting
from tsn_toolkit.export.vendor_int8 import VendorInt8

MODEL_FILE = integer_onnx.MODEL_FILE
DISTRIBUTION = "openvino"
REQUIREMENTS = ("openvino",)
export = integer_onnx.export
rehearse = by_exporting(export)
check_weights = integer_onnx.check_weights
export_dense_fp32 = integer_onnx.export_dense_fp32
admissible_outputs = admissible_by(*(partial(OpenVinoArithmetic, fusion=fusion) for fusion in FUSIONS))

VENDOR_INT8 = VendorInt8(
    tool="nncf.quantize: default settings",
    modules=("nncf",),
    install="pip install nncf",
    write_source=export_dense_fp32,
    source_file=MODEL_FILE,
    model_file="model.xml",
)
_FLOAT32 = {"INFERENCE_PRECISION_HINT": "f32"}
"""Where an artefact says float32, OpenVINO would compute in bfloat16 on processors that have it."""
_WEIGHT_OPERATIONS = frozenset({"Convolution", "FullyConnected", "MatMul", "Deconvolution"})
_COMPUTING = frozenset({*_WEIGHT_OPERATIONS, "Eltwise", "Subgraph", "Pooling", "Reduce", "Softmax", "MVN", "Interpolate"})
_INTEGERS = frozenset({"u8", "i8"})
_LARGEST_SAFE_CODE = 64
"""255 * 64 twice is within int16."""

README_CODE = """\
import numpy as np
import openvino

golden = np.load("{golden_file}")
x = golden["x"].astype(np.float32)

core = openvino.Core()
model = core.read_model("{model_file}")
model.reshape(list(x.shape))  # a model for one batch size is the fastest
logits = core.compile_model(model, "CPU", {settings!r})(x)[0]
"""


def cannot_run() -> str:
    """Never: what can be exported can be run."""
    return ""


def session_options(without_vnni: Mapping[str, str]) -> dict[str, str]:
    """The target's properties where this processor needs them; what is float stays float32."""
    return {**_FLOAT32, **session_entries(without_vnni)}


def integer_share(model: Path, manifest: Mapping[str, Any]) -> IntegerShare:
    """Share of the multiply-accumulates of one example in integer kernels, by the compiled model's own account in another process."""
    x = np.zeros([1, *manifest["inputs"][0]["shape"][1:]], np.float32)
    options = session_options(manifest["target"]["session_options_without_vnni"])
    nodes = profile(model, x, runtime="openvino", options=options)
    return share_of(nodes, {layer["name"]: layer["weight_shape"] for layer in manifest["layers"]}, least_macs=manifest["macs"])


def share_of(nodes: list[dict[str, Any]], weight_shapes: Mapping[str, list[int]], *, least_macs: int = 0) -> IntegerShare:
    """The share from the nodes of the compiled model.

    Args:
        nodes: records of `run_openvino.py`: `operation`, `precision` that it runs in, `layers` of the model file that it came from, `output_shape`.
        weight_shapes: layer -> shape of its weight, (out, in / groups, ...).
        least_macs: multiply-accumulates of the model. What the layers leave of them are products of two activations, as in attention; they disappear
            in fused nodes and count as float, which is how they are exported.

    Raises:
        GateError: a weight operation belongs to no layer, so that its MACs are unknown.
    """
    operations: Counter[str] = Counter()
    integer = total = 0
    stays_float = []
    for node in nodes:
        operations[node["operation"]] += 1
        whole = node["precision"] in _INTEGERS
        weights = [name for name in node["layers"] if "::weight" in name]
        if node["operation"] in _WEIGHT_OPERATIONS and (weights or node["operation"] != "MatMul"):
            name = weights[0] if weights else node["name"]
            macs = math.prod(node["output_shape"]) * math.prod(weight_shapes[layer_of(name, weight_shapes)][1:])
            total += macs
            integer += macs if whole else 0
        if node["operation"] in _COMPUTING and not whole and not _converts(node):
            stays_float.append(f"{node['operation']} {node['name']}")
    if total == 0:
        raise GateError("The compiled model holds no convolution or matrix product, so no share of integer kernels can be stated.")
    total = max(total, least_macs)
    return IntegerShare(integer / total, integer, total, dict(sorted(operations.items())), tuple(stays_float))


def readme_code(manifest: Mapping[str, Any], golden_file: str) -> str:
    """Python that computes `logits` of the recorded inputs with numpy and openvino alone."""
    settings = {**_FLOAT32, "INFERENCE_NUM_THREADS": 1}
    return README_CODE.format(settings=settings, model_file=manifest["model_file"], golden_file=golden_file)


def readme_note(manifest: Mapping[str, Any]) -> str:
    """What the arithmetic rests on."""
    saturating = "On x86 without VNNI OpenVINO adds pairs of products in saturating 16-bit integers"
    largest = manifest["target"]["max_code"]
    if largest > _LARGEST_SAFE_CODE:
        return f"{saturating}: this package may hold weights that need a processor with VNNI."
    return f"{saturating}; the weights of this package lie in [-{largest}, {largest}], where that cannot happen."


def _converts(node: Mapping[str, Any]) -> bool:
    """Whether the node does nothing but turn floats into codes or codes into floats."""
    return all(name.endswith(("QuantizeLinear", "DequantizeLinear")) for name in node["layers"])
