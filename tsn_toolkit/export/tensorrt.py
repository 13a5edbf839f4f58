"""TensorRT on NVIDIA GPUs: ONNX with signed symmetric Q/DQ, which TensorRT builds into an engine on the GPU that runs it.

Every file is linted against TensorRT's rules (`tensorrt_rules`), with or without a GPU; where there is none the package says "linted, not run".
See `export.runtime` for what each function is for.
"""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tsn_toolkit.contracts import ExtractedModel
from tsn_toolkit.errors import ExportError
from tsn_toolkit.export import integer_onnx
from tsn_toolkit.export.artefact import Artefact, ExportRequest, require_export
from tsn_toolkit.export.integer_interpreter import admissible_by
from tsn_toolkit.export.qdq_graph import quantize_moved_, unshare_parameters_
from tsn_toolkit.export.rehearsal import by_exporting
from tsn_toolkit.export.tensorrt_arithmetic import UNSIGNED_TO_SIGNED, TensorRtArithmetic
from tsn_toolkit.export.tensorrt_rules import Findings, lint
from tsn_toolkit.quantizers.activations import IntegerModel

MODEL_FILE = integer_onnx.MODEL_FILE
DISTRIBUTION = "tensorrt"
REQUIREMENTS = ("tensorrt", "torch")
VENDOR_INT8 = None  # TensorRT's own calibration runs while an engine is built, on a GPU
export_dense_fp32 = integer_onnx.export_dense_fp32
admissible_outputs = admissible_by(TensorRtArithmetic)
_NAMED_VIOLATIONS = 8
"""Of the rules that a file breaks; a model of another kind breaks them at every layer."""

_README_CODE = """\
import numpy as np
import tensorrt
import torch

logger = tensorrt.Logger(tensorrt.Logger.WARNING)
builder = tensorrt.Builder(logger)
network = builder.create_network(1 << int(tensorrt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
parser = tensorrt.OnnxParser(network, logger)
if not parser.parse_from_file("{model_file}"):
    raise SystemExit(parser.get_error(0))

golden = np.load("{golden_file}")
x = torch.from_numpy(golden["x"].astype(np.float32)).cuda()
config, shapes = builder.create_builder_config(), builder.create_optimization_profile()
shapes.set_shape("{input_name}", (1, *x.shape[1:]), tuple(x.shape), tuple(x.shape))
config.add_optimization_profile(shapes)
engine = tensorrt.Runtime(logger).deserialize_cuda_engine(builder.build_serialized_network(network, config))

context = engine.create_execution_context()
context.set_input_shape("{input_name}", tuple(x.shape))
y = torch.empty(tuple(context.get_tensor_shape("{output_name}")), device="cuda")
context.set_tensor_address("{input_name}", x.data_ptr())
context.set_tensor_address("{output_name}", y.data_ptr())
stream = torch.cuda.Stream()
context.execute_async_v3(stream.cuda_stream)
stream.synchronize()
logits = y.cpu().numpy()
"""


def cannot_run() -> str:
    """Why an engine can be neither built nor run here, or ""."""
    if importlib.util.find_spec("tensorrt") is None:
        return "linted, not run: TensorRT is not installed"
    return "" if torch.cuda.is_available() else "linted, not run: no CUDA device is here, and an engine is built on the GPU that runs it"


def export(request: ExportRequest, out_dir: Path) -> Artefact:
    """Write `model.onnx` and lint it; what the linter advises is among the notes.

    Raises:
        TargetError: a writer of ONNX is missing, or an installed TensorRT is too old.
        ExportError: the task has no form in TensorRT: a node breaks one of its rules, and is named.
    """
    require_export(request.target, "" if importlib.util.find_spec(DISTRIBUTION) is None else DISTRIBUTION, integer_onnx.WRITERS)
    artefact = integer_onnx.write(request, out_dir, adapt_=_adapt_)
    findings = _lint(out_dir / MODEL_FILE, request.target.opset or 0)
    step = artefact.output_step if _signed_output(artefact.reference) else (artefact.output_step or 0.0) * UNSIGNED_TO_SIGNED or None
    return dataclasses.replace(artefact, output_step=step, notes=(*artefact.notes, *findings.advice))


rehearse = by_exporting(export)


def check_weights(model: Path, extracted: ExtractedModel, reference: IntegerModel) -> None:
    """Lint the file on disk, and compare its INT8 weights with the store's integers.

    Raises:
        ExportError: a node breaks a rule, or a weight is not the store's.
    """
    import onnx

    _lint(model, max(entry.version for entry in onnx.load(str(model)).opset_import if entry.domain in ("", "ai.onnx")))
    integer_onnx.check_weights(model, extracted, reference)


def session_options(without_vnni: Mapping[str, str]) -> dict[str, str]:
    """None: an engine has no entries of this kind."""
    return {}


def integer_share(model: Path, manifest: Mapping[str, Any]) -> None:
    """None: which kernels an engine holds is decided on the GPU that builds it."""
    return None


def readme_code(manifest: Mapping[str, Any], golden_file: str) -> str:
    """Python that builds an engine and computes `logits` of the recorded inputs, with numpy, torch for memory on the GPU, and tensorrt."""
    names = {"input_name": manifest["inputs"][0]["name"], "output_name": manifest["outputs"][0]["name"]}
    return _README_CODE.format(model_file=manifest["model_file"], golden_file=golden_file, **names)


def readme_note(manifest: Mapping[str, Any]) -> str:
    """What the linter checked."""
    return "The file keeps TensorRT's rules of explicit quantization: signed symmetric codes, one scale per activation, float biases."


def _adapt_(proto: Any, reference: IntegerModel) -> None:
    """Maxima are rounded on the grid they are on already: a layer behind one reads a quantized input, as the linter asks."""
    quantize_moved_(proto, ("MaxPool",))
    unshare_parameters_(proto)
    make_symmetric_(proto, reference)


def make_symmetric_(proto: Any, reference: IntegerModel) -> None:
    """Give a QDQ graph signed activations and float biases; its quantizing nodes must share no parameters, and its weights must be named."""
    from onnx import numpy_helper

    tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
    dequantizers = {node.output[0]: node for node in proto.graph.node if node.op_type == "DequantizeLinear"}
    layers = {node.output[0]: node.name.partition("::weight")[0] for node in proto.graph.node if node.name.endswith("::weight")}
    for node in proto.graph.node:
        layer = next((layers[name] for name in (*node.output, *node.input) if name in layers), None)  # its own, or that whose product it adds to
        for position, name in enumerate(node.input):
            if layer is not None and name in dequantizers and _is_int32(tensors.get(dequantizers[name].input[0])):
                bias = reference.module.get_submodule(layer).bias.detach().to(torch.float32).numpy()
                proto.graph.node.remove(dequantizers[name])
                node.input[position] = f"{layer}.bias"
                proto.graph.initializer.append(numpy_helper.from_array(bias, node.input[position]))
    for node in proto.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and len(node.input) > 2 and node.input[2] in tensors:
            scale, zero_point = tensors.get(node.input[1]), tensors[node.input[2]]
            if scale is not None and numpy_helper.to_array(zero_point).dtype == np.uint8:
                wider = numpy_helper.to_array(scale) * np.float32(UNSIGNED_TO_SIGNED)
                scale.CopyFrom(numpy_helper.from_array(wider, scale.name))
                zero_point.CopyFrom(numpy_helper.from_array(np.zeros(numpy_helper.to_array(zero_point).shape, np.int8), zero_point.name))
    used = {name for node in proto.graph.node for name in node.input}
    for tensor in [tensor for tensor in proto.graph.initializer if tensor.name not in used]:
        proto.graph.initializer.remove(tensor)


def _is_int32(tensor: Any) -> bool:
    from onnx import TensorProto

    return tensor is not None and tensor.data_type == TensorProto.INT32


def _lint(model: Path, opset: int) -> Findings:
    import onnx

    findings = lint(onnx.load(str(model)), opset=opset)
    if findings.violations:
        lines = [f"- {line}" for line in findings.violations[:_NAMED_VIOLATIONS]]
        if further := len(findings.violations) - len(lines):
            lines.append(f"- and {further} more")
        raise ExportError(f"`{model.name}` breaks TensorRT's rules of explicit quantization:\n" + "\n".join(lines))
    return findings


def _signed_output(reference: torch.nn.Module) -> bool:
    from tsn_toolkit.quantizers.brevitas_graph import activation_proxies

    assert isinstance(reference, IntegerModel)
    if reference.mode != "graph":
        return True
    last = next(node for node in reference.module.graph.nodes if node.op == "output").args[0]
    proxy = activation_proxies(reference.module).get(str(getattr(last, "target", "")))
    return proxy is None or bool(proxy.is_signed)
