"""Float32 ONNX whose weights are the store's int8 integers; a runtime makes DequantizeLinear(q, scale) of them once, when it loads the file.

A quarter of the bytes of float weights, with the same values; activations stay float, so no ranges play a part.
"""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tsn_toolkit.contracts import ExtractedModel
from tsn_toolkit.errors import ExportError, first_line
from tsn_toolkit.export.artefact import Artefact, ExportRequest, require_modules
from tsn_toolkit.export.integer_onnx import INPUT_NAME, MODEL_FILE, OUTPUT_NAME, check_target, onnx_bytes, write_proto
from tsn_toolkit.export.torch import from_integers

WRITERS = ("onnx",)


def write(request: ExportRequest, out_dir: Path) -> Artefact:
    """Write `model.onnx` into `out_dir`, an existing folder.

    Raises:
        TargetError: onnx is missing, or the target names no opset.
        ExportError: a code is beyond `max_code`, the model cannot be written as ONNX, or the file's weights are not the store's integers.
    """
    extracted, target = request.extracted, request.target
    require_modules(WRITERS, target=target.name, install=target.install)
    opset = check_target(extracted, target)
    reference = from_integers(extracted)
    proto = _to_onnx(reference, request.example, opset)
    _unshare_(proto)
    _put_integers_(proto, extracted)
    content = write_proto(proto, target, out_dir)
    check_weights(out_dir / MODEL_FILE, extracted, reference)
    weights = sum(codes.nbytes for codes in extracted.q.values())
    constants = sum(len(tensor.raw_data) for tensor in proto.graph.initializer) - weights
    return Artefact(
        MODEL_FILE,
        reference,
        INPUT_NAME,
        OUTPUT_NAME,
        {"weights": weights, "constants": constants, "graph": len(content) - weights - constants},
        {name: importlib.metadata.version(name) for name in ("torch", "onnx")},
        notes=("Weights are the store's int8 integers and one scale per output channel; activations are floats.",),
    )


def check_weights(model: Path, extracted: ExtractedModel, reference: nn.Module) -> None:
    """Compare the integers, the scales and all other tensors of a file with the store's, bit by bit.

    Raises:
        ExportError: the file cannot be read, or a tensor is missing or differs.
    """
    found = _tensors(model)
    wanted = {name: tensor.numpy() for name, tensor in reference.state_dict().items() if not name.endswith("num_batches_tracked")}
    for layer, codes in extracted.q.items():
        del wanted[f"{layer}.weight"]
        wanted |= {f"{layer}.weight.codes": codes, f"{layer}.weight.scale": _scale(extracted, layer)}
    for name, values in wanted.items():
        if name not in found:
            raise ExportError(f"`{model.name}` holds no tensor `{name}`.")
        if found[name].dtype != values.dtype or found[name].shape != values.shape or found[name].tobytes() != values.tobytes():
            raise ExportError(f"`{model.name}`: tensor `{name}` is not the store's.")


def _to_onnx(module: nn.Module, example: torch.Tensor, opset: int) -> Any:
    """The module as it stands, nothing folded, so that every tensor keeps its name and its values."""
    import onnx

    try:
        content = onnx_bytes(module.eval(), example, opset, training=torch.onnx.TrainingMode.PRESERVE, do_constant_folding=False)
    except Exception as error:  # torch raises many kinds
        raise ExportError(f"The model cannot be written as ONNX: {first_line(error)}") from error
    return onnx.load_from_string(content)


def _unshare_(proto: Any) -> None:
    """Gives every tensor that torch wrote once for several names, since its values are equal, a place under each of them, in place."""
    tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
    for node in [node for node in proto.graph.node if node.op_type == "Identity" and node.input[0] in tensors]:
        copied = proto.graph.initializer.add()
        copied.CopyFrom(tensors[node.input[0]])
        copied.name = node.output[0]
        tensors[copied.name] = copied
        proto.graph.node.remove(node)


def _put_integers_(proto: Any, extracted: ExtractedModel) -> None:
    """Replaces each layer's float weight by its integers and a DequantizeLinear in front, in place."""
    from onnx import helper, numpy_helper

    weights = {tensor.name: tensor for tensor in proto.graph.initializer}
    for layer, codes in extracted.q.items():
        name = f"{layer}.weight"
        if name not in weights:
            raise ExportError(f"The ONNX graph has no weight `{name}`; layer `{layer}` shares it with another, or the model does not use it.")
        proto.graph.initializer.remove(weights[name])
        inputs = {f"{name}.codes": codes, f"{name}.scale": _scale(extracted, layer)}
        proto.graph.initializer.extend(numpy_helper.from_array(np.ascontiguousarray(values), key) for key, values in inputs.items())
        proto.graph.node.insert(0, helper.make_node("DequantizeLinear", list(inputs), [name], axis=0, name=f"{layer}::dequantize"))


def _scale(extracted: ExtractedModel, layer: str) -> NDArray[np.float32]:
    return np.array(extracted.scale[layer], np.float32).reshape(-1)


def _tensors(path: Path) -> dict[str, NDArray[Any]]:
    import onnx
    from onnx import numpy_helper

    try:
        proto = onnx.load(str(path))
        return {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    except Exception as error:  # the file system, protobuf and onnx each raise their own kinds
        raise ExportError(f"`{path.name}` cannot be read: {error}") from error
