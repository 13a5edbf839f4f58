"""INT8 QDQ ONNX with the store's integers as weights, the file that every runtime of integer ONNX starts from.

Brevitas exports QCDQ: QuantizeLinear - Clip - DequantizeLinear. The rewrites of `export.qdq_graph` turn that, without changing one number, into the
form that ONNX Runtime fuses to QLinearConv, QLinearAdd and QGemm, and OpenVINO to convolutions of u8 and i8.
"""

from __future__ import annotations

import importlib.metadata
import io
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tsn_toolkit.contracts import ExtractedModel
from tsn_toolkit.errors import ExportError, TargetError
from tsn_toolkit.export.artefact import Artefact, ExportRequest, require_export, require_modules
from tsn_toolkit.export.int4_onnx import unpacked
from tsn_toolkit.export.qdq_graph import (
    fold_constant_clips_,
    move_dequantize_below_reshape_,
    quantize_moved_,
    shift_signed_activations_,
    unshare_parameters_,
)
from tsn_toolkit.files import write_bytes
from tsn_toolkit.quantizers.activations import IntegerModel
from tsn_toolkit.target import Target

MODEL_FILE = "model.onnx"
INPUT_NAME = "input"
OUTPUT_NAME = "logits"
WRITERS = ("onnx", "onnxoptimizer", "brevitas")
"""Modules that write the file, whichever runtime reads it."""
_WEIGHT_OPERATIONS = ("Conv", "Gemm", "MatMul")


def export(request: ExportRequest, out_dir: Path) -> Artefact:
    """Write `model.onnx` into `out_dir`, an existing folder, for any runtime that reads it; unit masks are not recorded in an ONNX file.

    Raises:
        TargetError: a package is missing or too old, or the target names no opset.
        ExportError: the model has no integer form, a code is beyond the target's `max_code`, or the file's weights are not the store's integers.
    """
    require_export(request.target, request.target.runtime, WRITERS)
    return write(request, out_dir, adapt_=lambda proto, _: shift_signed_activations_(proto))


def write(request: ExportRequest, out_dir: Path, *, adapt_: Callable[[Any, IntegerModel], None]) -> Artefact:
    """As `export`, without a look at the installed runtime.

    Args:
        request, out_dir: as in `export`.
        adapt_: called with the graph, its weights named, and the reference; changes the graph to the form that the runtime wants.

    Raises:
        TargetError, ExportError: as in `export`.
    """
    opset = check_target(request.extracted, request.target)
    reference = request.integer_model()
    proto = _to_onnx(reference, request.example, opset)
    fold_constant_clips_(proto)
    quantize_moved_(proto)
    move_dequantize_below_reshape_(proto)
    unshare_parameters_(proto)
    _name_weights_(proto, reference, _execution_order(reference, request.example))
    adapt_(proto, reference)
    content = write_proto(proto, request.target, out_dir)
    check_weights(out_dir / MODEL_FILE, request.extracted, reference)
    versions = {name: importlib.metadata.version(name) for name in ("torch", "brevitas", "onnx", "onnxoptimizer")}
    return Artefact(
        MODEL_FILE,
        reference,
        INPUT_NAME,
        OUTPUT_NAME,
        _bytes_by_part(proto, len(content)),
        versions,
        output_step=reference.output_step,
        quantization=reference.mode,
        notes=tuple(reference.notes),
        channels=reference.listed_channels(),
    )


def export_dense_fp32(model: nn.Module, example: torch.Tensor, path: Path, *, opset: int = 17) -> None:
    """Write the float32 ONNX of a module, the baseline of sizes and latencies.

    Args:
        model: plain module; traced in eval mode on a copy of its mode.
        example: float32 (batch, ...).
        path: file to write.
        opset: ONNX opset.

    Raises:
        TargetError: onnx is missing.
    """
    require_modules(("onnx",), target="dense fp32", install="pip install onnx onnxruntime")
    training = model.training
    try:
        content = onnx_bytes(model.eval(), example[:1], opset)
    finally:
        model.train(training)
    write_bytes(path, content)


def write_proto(proto: Any, target: Target, out_dir: Path) -> bytes:
    """Check a graph, bound its IR version by the target's and write it as `model.onnx` into `out_dir`; the file's bytes."""
    import onnx

    if target.ir_version is not None:
        proto.ir_version = min(proto.ir_version, target.ir_version)
    onnx.checker.check_model(proto)
    content: bytes = proto.SerializeToString(deterministic=True)
    write_bytes(out_dir / MODEL_FILE, content)
    return content


def onnx_bytes(model: nn.Module, example: torch.Tensor, opset: int, **more: Any) -> bytes:
    """A module in evaluation mode as an ONNX file with a free batch; `more` are further keywords of `torch.onnx.export`, which raises many kinds."""
    buffer = io.BytesIO()
    with torch.no_grad(), warnings.catch_warnings(), _without_torchs_log():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, (example,), buffer, **_export_settings(opset), **more)
    return buffer.getvalue()


def check_weights(path: Path, extracted: ExtractedModel, reference: IntegerModel) -> None:
    """Compare the INT8 weights of a file on disk with the store's integers, with the listed signs; requantized channels with the reference's.

    Raises:
        ExportError: a weight is missing or differs.
    """
    import onnx
    from onnx import numpy_helper

    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(str(path)).graph.initializer}
    for layer, codes in extracted.q.items():
        found = arrays.get(f"{layer}.weight")
        if layer in reference.blocks and found is not None and found.dtype == np.uint8:
            found = unpacked(found)
        if found is None or found.dtype != np.int8 or found.shape != codes.shape:
            raise ExportError(f"`{path.name}` holds no INT8 weight of shape {codes.shape} for layer `{layer}`.")
        wrong = np.flatnonzero((found != reference.exported(layer, codes)).reshape(len(codes), -1).any(axis=1)).tolist()
        if wrong:
            raise ExportError(f"`{path.name}`: weights of layer `{layer}`, channels {wrong[:8]}, are not the store's integers.")


def check_target(extracted: ExtractedModel, target: Target) -> int:
    """The opset to write.

    Raises:
        TargetError: the target names none.
        ExportError: a code is beyond the target's `max_code`.
    """
    if target.opset is None:
        raise TargetError(f"Target `{target.name}` reads ONNX and must set `opset`.")
    for layer, codes in extracted.q.items():
        largest = int(np.abs(codes.astype(np.int16)).max(initial=0))
        if largest > target.max_code:
            raise ExportError(
                f"Layer `{layer}` holds a code of magnitude {largest}; target `{target.name}` allows at most {target.max_code}. "
                "Name the target in the recipe when the task is learned, which bounds its codes, or export for another target."
            )
    return target.opset


@contextmanager
def _without_torchs_log() -> Iterator[None]:
    """Inside, torch does not print the graph of a model that it cannot write to stdout, which belongs to a command's JSON."""
    log = getattr(torch._C, "_jit_onnx_log", None)
    torch._C._jit_onnx_log = lambda *parts: None  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch._C._jit_onnx_log = log  # type: ignore[attr-defined]


def _export_settings(opset: int) -> dict[str, Any]:
    """Keywords of `torch.onnx.export` for a model with one input, one output and a free batch."""
    return {
        "dynamo": False,
        "keep_initializers_as_inputs": False,
        "opset_version": opset,
        "input_names": [INPUT_NAME],
        "output_names": [OUTPUT_NAME],
        "dynamic_axes": {INPUT_NAME: {0: "batch"}, OUTPUT_NAME: {0: "batch"}},
    }


def _to_onnx(reference: IntegerModel, example: torch.Tensor, opset: int) -> Any:
    import onnx
    from brevitas.export import export_onnx_qcdq

    try:
        with torch.no_grad(), warnings.catch_warnings(), _without_torchs_log():
            warnings.simplefilter("ignore")
            with tempfile.TemporaryDirectory() as folder:  # Brevitas returns the model only through a file
                path = Path(folder) / MODEL_FILE
                export_onnx_qcdq(reference.module, args=example, export_path=str(path), **_export_settings(opset))
                return onnx.load(str(path))
    except Exception as error:  # torch, Brevitas and onnx each raise their own kinds
        reason = str(error).strip().partition("\n")[0].partition("  [Caused by")[0]
        raise ExportError(f"The integer model cannot be written as ONNX: {type(error).__name__}: {reason}") from error


def _execution_order(reference: IntegerModel, example: torch.Tensor) -> list[str]:
    """Names of the integer layers, one entry per call, in the order of calls."""
    order: list[str] = []
    modules = {name: reference.module.get_submodule(name) for name in reference.codes}
    handles = [module.register_forward_pre_hook(lambda _, __, name=name: order.append(name)) for name, module in modules.items()]
    try:
        with torch.no_grad():
            reference(example)
    finally:
        for handle in handles:
            handle.remove()
    return order


def _name_weights_(proto: Any, reference: IntegerModel, order: list[str]) -> None:
    """Give each INT8 weight the name `<layer>.weight`, found by the order of execution."""
    from onnx import numpy_helper

    producers = {output: node for node in proto.graph.node for output in node.output}
    weights = {tensor.name: tensor for tensor in proto.graph.initializer}
    nodes = [node for node in proto.graph.node if node.op_type in _WEIGHT_OPERATIONS and _integer_source(node.input[1], producers, weights)]
    if len(nodes) != len(order):
        raise ExportError(f"The ONNX graph has {len(nodes)} operations with integer weights, the model calls {len(order)} layers: {order}.")
    names: dict[str, str] = {}
    for layer, node in zip(order, nodes, strict=True):
        node.name = f"{layer}::weight"  # the runtime's profile repeats it
        source = _integer_source(node.input[1], producers, weights)
        array = numpy_helper.to_array(weights[source])
        codes = reference.codes[layer]
        if not np.array_equal(array, codes):
            raise ExportError(f"Weight `{source}` of the ONNX graph is not the integer weight of layer `{layer}`.")
        if source in names and names[source] != layer:  # two layers with equal codes share one constant
            weights[f"{layer}.weight"] = numpy_helper.from_array(array, f"{layer}.weight")
            proto.graph.initializer.append(weights[f"{layer}.weight"])
            _dequantizer(node.input[1], producers).input[0] = f"{layer}.weight"
        names.setdefault(source, layer)
    for tensor in proto.graph.initializer:
        if tensor.name in names:
            tensor.name = f"{names[tensor.name]}.weight"
    for node in proto.graph.node:
        for position, name in enumerate(node.input):
            if name in names:
                node.input[position] = f"{names[name]}.weight"


def _dequantizer(name: str, producers: Mapping[str, Any]) -> Any:
    """The DequantizeLinear node that `name` comes from, through transposes; None if another operation makes it."""
    node = producers.get(name)
    while node is not None and node.op_type == "Transpose":
        node = producers.get(node.input[0])
    return node if node is not None and node.op_type == "DequantizeLinear" else None


def _integer_source(name: str, producers: Mapping[str, Any], weights: Mapping[str, Any]) -> str:
    """Name of the INT8 initializer behind a weight input, or ""."""
    node = _dequantizer(name, producers)
    return node.input[0] if node is not None and node.input[0] in weights else ""


def _bytes_by_part(proto: Any, total: int) -> dict[str, int]:
    """Bytes of the file: int8 and packed int4 weights, biases, float scales and constants, and the rest (graph, names)."""
    from onnx import numpy_helper

    parts = {"weights": 0, "biases": 0, "constants": 0}
    for tensor in proto.graph.initializer:
        array = numpy_helper.to_array(tensor)
        bias = array.dtype == np.int32 or tensor.name.endswith(".bias")
        part = "weights" if array.dtype in (np.int8, np.uint8) and array.ndim > 1 else "biases" if bias else "constants"
        parts[part] += array.nbytes
    parts["graph"] = total - sum(parts.values())
    return parts
