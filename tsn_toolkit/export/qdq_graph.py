"""Rewrites of a QDQ ONNX graph that keep every number and let runtimes see whole integer operations.

Each function changes the ModelProto it is given in place. None of them touches a weight.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from tsn_toolkit.errors import ExportError

_RESHAPES = ("Flatten", "Reshape", "Squeeze", "Unsqueeze")
MOVING = ("Concat", "Slice", "Split", "Pad", "Resize", "DepthToSpace", "Transpose")
"""Operations, besides reshapes and maxima, that make no number that was not there."""


def _constants(proto: Any) -> dict[str, np.ndarray]:
    """Name -> value of every initializer and Constant node."""
    from onnx import numpy_helper

    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    for node in proto.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            values[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    return values


def fold_constant_clips_(proto: Any) -> None:
    """Remove every Clip of a constant; the constant must lie inside the limits."""
    values = _constants(proto)
    replaced = {}
    for node in list(proto.graph.node):
        if node.op_type != "Clip" or node.input[0] not in values:
            continue
        value = values[node.input[0]]
        limits = [values[name] if name else None for name in node.input[1:]]
        if not np.array_equal(np.clip(value, *limits) if len(limits) == 2 else value, value):
            raise ExportError(f"Constant `{node.input[0]}` exceeds the limits of its Clip: the model's integers are not what was quantized.")
        replaced[node.output[0]] = node.input[0]
        proto.graph.node.remove(node)
    for node in proto.graph.node:
        for position, name in enumerate(node.input):
            if name in replaced:
                node.input[position] = replaced[name]
    used = {name for node in proto.graph.node for name in node.input}
    for tensor in [tensor for tensor in proto.graph.initializer if tensor.name not in used]:
        proto.graph.initializer.remove(tensor)


def quantize_moved_(proto: Any, operations: Collection[str] = MOVING) -> None:
    """Quantize what only moves numbers of equally quantized tensors again, by their own scale: the operation behind it then sees a quantized input.

    The values are on the grid already, so no number changes; pools and reshapes on the way keep them there.

    Args:
        proto: the graph.
        operations: that move numbers; `Pad` counts where it pads with 0, `Resize` where it repeats the nearest.
    """
    from onnx import helper

    values = _constants(proto)
    producers = {output: node for node in proto.graph.node for output in node.output}
    readers = {(name, node.op_type) for node in proto.graph.node for name in node.input}
    computed = {name for name, operation in readers if operation != "QuantizeLinear"}
    nodes = []
    for node in proto.graph.node:
        nodes.append(node)
        sources = [_grid_source(name, producers) for name in _moved(node, values)] if node.op_type in operations else []
        if not sources or any(source is None or source.input[0] in values or not _same_grid(source, sources[0], values) for source in sources):
            continue
        for position, floating in enumerate(node.output):
            if floating not in computed:  # a quantizer of the model's own follows; ONNX Runtime would merge the two, and change numbers
                continue
            parameters, name = list(sources[0].input[1:]), f"{node.name or node.output[0]}_quant{position or ''}"
            node.output[position] = f"{name}_input"
            nodes.append(helper.make_node("QuantizeLinear", [node.output[position], *parameters], [f"{name}_codes"], f"{name}/QuantizeLinear"))
            nodes.append(helper.make_node("DequantizeLinear", [f"{name}_codes", *parameters], [floating], f"{name}/DequantizeLinear"))
            producers[floating] = nodes[-1]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)


def _moved(node: Any, values: Mapping[str, np.ndarray]) -> list[str]:
    """Names of the tensors whose numbers `node` moves; none where it makes other numbers."""
    if node.op_type == "Concat":
        return list(node.input)
    settings = {attribute.name: attribute.s for attribute in node.attribute}
    if node.op_type == "Pad" and (settings.get("mode", b"constant") != b"constant" or len(node.input) > 2 and np.any(values.get(node.input[2], 1))):
        return []
    if node.op_type == "Resize" and settings.get("mode", b"nearest") != b"nearest":
        return []
    return [node.input[0]]


def _grid_source(name: str, producers: Mapping[str, Any]) -> Any:
    """The DequantizeLinear on whose grid a tensor lies; None where it lies on none."""
    node = producers.get(name)
    while node is not None and node.op_type in (*_RESHAPES, "MaxPool"):
        node = producers.get(node.input[0])
    return node if node is not None and node.op_type == "DequantizeLinear" and len(node.input) > 2 else None


def _same_grid(one: Any, other: Any, values: Mapping[str, np.ndarray]) -> bool:
    pairs = [(values.get(one.input[position]), values.get(other.input[position])) for position in (1, 2)]
    return all(a is not None and b is not None and a.size == 1 and a.dtype == b.dtype and np.array_equal(a, b) for a, b in pairs)


def unshare_parameters_(proto: Any) -> None:
    """Give every quantizing node its own scale and zero point.

    ONNX Runtime turns int8 operands into uint8 ones by replacing zero points in place. A zero point that several nodes share is replaced twice: the
    session then fails to load, or the operations around stay in float.
    """
    from onnx import numpy_helper

    values = _constants(proto)
    seen: set[str] = set()
    for index, node in enumerate(proto.graph.node):
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        for position in range(1, len(node.input)):
            name = node.input[position]
            if name in seen and name in values:
                node.input[position] = f"{name}_{index}"
                proto.graph.initializer.append(numpy_helper.from_array(values[name], node.input[position]))
            seen.add(name)


def move_dequantize_below_reshape_(proto: Any) -> None:
    """Turn DequantizeLinear - Flatten into Flatten - DequantizeLinear, so that the operation behind the Flatten sees a quantized input."""
    consumers: dict[str, int] = {}
    for node in proto.graph.node:
        for name in node.input:
            consumers[name] = consumers.get(name, 0) + 1
    outputs = {output.name for output in proto.graph.output}
    producers = {output: node for node in proto.graph.node for output in node.output}
    nodes = list(proto.graph.node)
    for node in list(nodes):
        source = producers.get(node.input[0]) if node.op_type in _RESHAPES else None
        if source is None or source.op_type != "DequantizeLinear" or source.output[0] in outputs:
            continue
        if len(source.input) < 3 or consumers[source.output[0]] != 1:
            continue
        quantized, floating, reshaped = source.input[0], source.output[0], node.output[0]
        node.input[0], node.output[0] = quantized, floating
        source.input[0], source.output[0] = floating, reshaped
        nodes.remove(source)
        nodes.insert(nodes.index(node) + 1, source)
        producers.update({floating: node, reshaped: source})
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)


def shift_signed_activations_(proto: Any) -> None:
    """Store int8 activations with zero point 0 as uint8 with zero point 128: the same reals, the same rounding, the same limits.

    ONNX Runtime's x86 kernels want uint8 activations and shift the others itself when it loads a model, but not where a quantized tensor has two
    readers, as in a residual network; there it would fall back to float.
    """
    from onnx import numpy_helper

    values = _constants(proto)
    tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
    for node in proto.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear") or len(node.input) < 3:
            continue
        if node.input[0] in values and values[node.input[0]].dtype.kind in "iu":  # a weight; a constant that is quantized like an activation is float
            continue
        zero_point = values.get(node.input[2])
        if zero_point is None or zero_point.dtype != np.int8 or zero_point.shape not in ((), (1,)):
            continue
        if node.input[2] not in tensors:
            raise ExportError(f"Zero point `{node.input[2]}` of `{node.name}` is not an initializer; the graph was not written by this exporter.")
        shifted = (zero_point.astype(np.int16) + 128).astype(np.uint8)
        tensors[node.input[2]].CopyFrom(numpy_helper.from_array(shifted, node.input[2]))
