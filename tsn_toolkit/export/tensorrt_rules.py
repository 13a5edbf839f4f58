"""What TensorRT's ONNX parser and builder ask of explicit quantization, checked on the graph without TensorRT.

Sources: NVIDIA TensorRT documentation, "Working with Quantized Types" and "Explicit Quantization", and the restrictions of onnx-tensorrt's
operator table (read November 2026); issues 1604 and 3417 of NVIDIA/TensorRT on attention. A violation means that the parser refuses the model or
that the builder leaves an operation with weights in float; advice costs speed alone. Each sentence names the node.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")
RESHAPES = ("Flatten", "Reshape", "Squeeze", "Unsqueeze", "Transpose")
WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
SUPPORTED = frozenset(
    {*QUANTIZERS, *WEIGHTED, "Add", "AveragePool", "Concat", "Flatten", "GlobalAveragePool", "Identity", "MaxPool", "Mul", "ReduceMean", "Relu"}
    | {"Reshape", "Sigmoid", "Softmax", "Squeeze", "Sub", "Transpose", "Unsqueeze", "Clip", "Constant", "Pad", "Slice", "Split"}
    | {"Cast", "ConstantOfShape", "Div", "Equal", "Erf", "Exp", "Expand", "Gather", "LayerNormalization", "Max", "Min", "Mod", "Neg", "Pow"}
    | {"Range", "ReduceMax", "ReduceSum", "Shape", "Sqrt", "Tanh", "Tile", "Where"}
    | {"Celu", "Elu", "HardSigmoid", "HardSwish", "LeakyRelu", "LogSoftmax", "Selu", "Softplus", "Softsign", "ThresholdedRelu"}
    | {"Abs", "And", "Ceil", "Cos", "CumSum", "DepthToSpace", "Einsum", "Floor", "GlobalMaxPool", "Greater", "GreaterOrEqual"}
    | {"InstanceNormalization", "Less", "LessOrEqual", "Log", "Not", "Or", "Reciprocal", "ReduceL2", "ReduceMin", "ReduceProd", "Resize", "Round"}
    | {"Sign", "Sin", "SpaceToDepth", "Sum", "TopK"}
)
"""Operations of the parser's table that this toolkit's exporter writes or torch's writes for what stays in float."""
RESIZE_MODES = (b"nearest", b"linear")


@dataclass(frozen=True)
class Findings:
    """What the rules say of one graph.

    Attributes:
        violations: one sentence per broken rule.
        advice: one sentence per place that TensorRT would run faster otherwise.
    """

    violations: tuple[str, ...]
    advice: tuple[str, ...]


@dataclass(frozen=True)
class _Graph:
    """A graph's nodes with what they are connected to; constants are initializers and the values of Constant nodes."""

    nodes: tuple[Any, ...]
    constants: Mapping[str, np.ndarray]
    producers: Mapping[str, Any]
    consumers: Mapping[str, tuple[Any, ...]]


def lint(proto: Any, *, opset: int) -> Findings:
    """Check a QDQ ONNX model.

    Args:
        proto: the ModelProto.
        opset: largest opset that the target reads.
    """
    graph = _connected(proto)
    written = [entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")]
    violations = [f"opset {version} is beyond the target's {opset}" for version in written if version > opset]
    for node in graph.nodes:
        if node.domain not in ("", "ai.onnx") or node.op_type not in SUPPORTED:
            violations.append(f"{_name(node)} is not an operation of TensorRT's ONNX parser")
        if node.op_type == "Resize":
            modes = [attribute.s for attribute in node.attribute if attribute.name == "mode"]
            violations += [
                f"{_name(node)} resizes by {mode.decode()}; TensorRT does it by nearest or linear" for mode in modes if mode not in RESIZE_MODES
            ]
        if node.op_type in QUANTIZERS:
            violations += [f"{_name(node)} {problem}" for problem in _quantizer_problems(node, graph)]
        if node.op_type in WEIGHTED and not _multiplies_activations(node, graph):
            violations += [f"{_name(node)} {problem}" for problem in _weighted_problems(node, graph)]
    return Findings(tuple(violations), tuple(_advice(graph)))


def _connected(proto: Any) -> _Graph:
    from onnx import numpy_helper

    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    consumers: dict[str, tuple[Any, ...]] = {}
    for node in proto.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
        for name in node.input:
            consumers[name] = (*consumers.get(name, ()), node)
    producers = {output: node for node in proto.graph.node for output in node.output}
    return _Graph(tuple(proto.graph.node), constants, producers, consumers)


def _quantizer_problems(node: Any, graph: _Graph) -> Iterator[str]:
    """Symmetric signed 8-bit codes with constant positive scales, per tensor or per output channel of a weight."""
    if len(node.input) != 3:
        yield f"has {len(node.input)} inputs; TensorRT wants data, scale and zero point"
        return
    data, scale, zero_point = graph.constants.get(node.input[0]), graph.constants.get(node.input[1]), graph.constants.get(node.input[2])
    if zero_point is None or scale is None:
        yield "has a scale or zero point that is not a constant"
        return
    if zero_point.dtype != np.int8:
        yield f"has a zero point of type {zero_point.dtype}; TensorRT quantizes to int8 alone"
    if np.any(zero_point != 0):
        yield f"has zero point {int(zero_point.reshape(-1)[np.flatnonzero(zero_point)[0]])}; TensorRT's codes are symmetric, it must be 0"
    if scale.dtype != np.float32 or not np.all(np.isfinite(scale)) or np.any(scale <= 0):
        yield "has a scale that is not positive, finite and float32"
    if data is not None and data.dtype == np.int32:
        yield "dequantizes an int32 constant; TensorRT wants biases as floats"
    if data is None and scale.size != 1:
        yield f"has {scale.size} scales for an activation; TensorRT wants one per tensor"
    if node.op_type == "QuantizeLinear" and any(reader.op_type != "DequantizeLinear" for reader in _through_reshapes(node.output[0], graph)):
        yield "is read by an operation that is no DequantizeLinear"


def _weighted_problems(node: Any, graph: _Graph) -> Iterator[str]:
    """Both operands dequantized directly before the operation, the weight per output channel; a float constant as bias.

    Between a weight and its product a Transpose may stand, as NVIDIA's own quantizer of linear layers leaves one.
    """
    for position, what in ((0, "an input"), (1, "a weight")):
        source = graph.producers.get(node.input[position])
        if position == 1 and source is not None and source.op_type == "Transpose":
            source = graph.producers.get(source.input[0])
        if source is None or source.op_type != "DequantizeLinear":
            yield f"has {what} that no DequantizeLinear gives, so it would run in float"
        elif position == 1:
            yield from _weight_problems(source, graph)
    if len(node.input) > 2 and (node.input[2] not in graph.constants or graph.constants[node.input[2]].dtype != np.float32):
        yield "has a bias that is not a float32 constant"


def _multiplies_activations(node: Any, graph: _Graph) -> bool:
    """Whether a MatMul has no weight: nothing constant is behind its second operand but shapes."""
    if node.op_type != "MatMul":
        return False
    name = node.input[1]
    while name in graph.producers and graph.producers[name].op_type in (*QUANTIZERS, *RESHAPES):
        name = graph.producers[name].input[0]
    return name not in graph.constants


def _weight_problems(source: Any, graph: _Graph) -> Iterator[str]:
    codes, scale = graph.constants.get(source.input[0]), graph.constants.get(source.input[1])
    if codes is None or codes.dtype != np.int8:
        yield "has a weight that is not an int8 constant"
        return
    axis = next((attribute.i for attribute in source.attribute if attribute.name == "axis"), 1)
    if scale is not None and scale.size not in (1, codes.shape[0]) or scale is not None and scale.size > 1 and axis != 0:
        yield f"has weight scales of size {scale.size} along axis {axis}; TensorRT wants one per tensor or one per output channel along axis 0"


def _advice(graph: _Graph) -> Iterator[str]:
    """Products of activations in float, as attention has them; and sums whose operands are all rounded: TensorRT adds one of them in full precision
    inside the convolution where nothing rounds it before.
    """
    for node in graph.nodes:
        sources = [graph.producers.get(name) for name in node.input]
        rounded = [source is not None and source.op_type == "DequantizeLinear" for source in sources]
        if _multiplies_activations(node, graph) and not all(rounded):
            yield f"{_name(node)} multiplies activations in float"
        if node.op_type == "Add" and all(rounded):
            yield f"{_name(node)} adds two rounded operands; without rounding one of them TensorRT can add inside the convolution before"


def _through_reshapes(name: str, graph: _Graph) -> Iterator[Any]:
    """What reads a tensor, reshapes looked through."""
    for reader in graph.consumers.get(name, ()):
        if reader.op_type in RESHAPES:
            yield from _through_reshapes(reader.output[0], graph)
        else:
            yield reader


def _name(node: Any) -> str:
    return f"{node.op_type} `{node.name or node.output[0]}`"
