"""What a traced operation costs: multiply-accumulates, and the peak of activation memory in execution order."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from tsn_toolkit.contracts import ModelGraph

Shape = tuple[int, ...]

CONVOLUTIONS = frozenset({"conv1d", "conv2d", "conv3d", "convolution"})
TRANSPOSED = frozenset({"conv_transpose1d", "conv_transpose2d", "conv_transpose3d"})
PRODUCTS = frozenset({"matmul", "mm", "bmm", "dot", "mv"})
BIASED_PRODUCTS = frozenset({"addmm", "baddbmm", "addmv", "addbmm"})
RECURRENT = frozenset({"lstm", "gru", "rnn_tanh", "rnn_relu"})


def operation_macs(op: str, inputs: Sequence[Shape], output: Shape, *, equation: str = "") -> int:
    """Multiply-accumulates of one operation; 0 for operations that are not products.

    Args:
        op: name of the operation, for example `conv2d`.
        inputs: shapes of its tensor inputs in call order; for layers the weight comes second.
        output: shape of its first output.
        equation: of an `einsum`.
    """
    if op in CONVOLUTIONS:
        return output[0] * prod(output[2:]) * prod(inputs[1])
    if op in TRANSPOSED:
        return inputs[0][0] * prod(inputs[0][2:]) * prod(inputs[1])
    if op == "linear":
        return prod(inputs[0][:-1]) * prod(inputs[1])
    if op in PRODUCTS:
        return prod(output) * inputs[0][-1]
    if op in BIASED_PRODUCTS:
        return prod(output) * inputs[1][-1]
    if op == "scaled_dot_product_attention":
        query, key, value = inputs[:3]
        return prod(query[:-1]) * key[-2] * (query[-1] + value[-1])
    if op == "einsum":
        return _einsum_macs(equation, inputs)
    if op in RECURRENT:
        steps = prod(inputs[0][:-1])
        return steps * sum(prod(shape) for shape in inputs[1:] if len(shape) == 2)
    return 0


def _einsum_macs(equation: str, inputs: Sequence[Shape]) -> int:
    """Product of the sizes of all indices of an einsum without ellipsis; 0 when it cannot be read."""
    terms = equation.replace(" ", "").split("->")[0].split(",")
    sizes: dict[str, int] = {}
    for term, shape in zip(terms, inputs, strict=False):
        if len(term) != len(shape):
            return 0
        sizes.update(zip(term, shape, strict=True))
    return prod(sizes.values()) if len(terms) > 1 else 0


def peak_activation_bytes(graph: ModelGraph) -> int:
    """Largest number of bytes of activations that live at one moment when the nodes run in order, at batch 1.

    A tensor lives from the node that makes it to the last node that reads it; a node with 0 activation bytes (a view, or done in place) keeps the
    storage of its first input alive.
    """
    inputs: dict[str, list[str]] = {node.name: [] for node in graph.nodes}
    for source, destination, _ in sorted(graph.edges, key=lambda edge: edge[2]):
        inputs[destination].append(source)
    storage: dict[str, str] = {}
    last_use: dict[str, int] = {}
    for position, node in enumerate(graph.nodes):
        alias = node.activation_bytes == 0 and inputs[node.name]
        storage[node.name] = storage[inputs[node.name][0]] if alias else node.name
        for name in (node.name, *inputs[node.name]):
            last_use[storage[name]] = position
    live = peak = 0
    ending: dict[int, int] = {}
    for position, node in enumerate(graph.nodes):
        live += node.activation_bytes
        peak = max(peak, live)
        if storage[node.name] == node.name:
            ending[last_use[node.name]] = ending.get(last_use[node.name], 0) + node.activation_bytes
        live -= ending.pop(position, 0)
    return peak


def parameter_bytes(graph: ModelGraph) -> int:
    """Bytes of all parameters that the traced operations read, each counted once."""
    return sum(node.parameter_bytes for node in graph.nodes)
