"""What every operation costs on a target by the roofline model (Williams, Waterman and Patterson, CACM 2009).

    seconds = max(multiply-accumulates / peak rate, bytes moved / memory bandwidth)

Bytes moved are the operation's weights, inputs and outputs, once each: an operation whose data stay in a cache is faster, one that reads its inputs
several times slower. It ranks layers and says what bounds them; it is no substitute for a measurement.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from tsn_toolkit.contracts import ModelGraph, NodeRecord
from tsn_toolkit.errors import TargetError
from tsn_toolkit.target import Rates, Target

OPERATION_OF_KIND = {"Conv1d": "conv", "Conv2d": "conv", "Conv3d": "conv", "Linear": "linear"}
"""Type name of a layer -> operation of a target file."""
AVERAGES = dict.fromkeys(("mean", "avg_pool1d", "avg_pool2d", "adaptive_avg_pool1d", "adaptive_avg_pool2d"), "average_pool")
OPERATION_OF_NODE = {"add": "add", "max_pool1d": "max_pool", "max_pool2d": "max_pool", **AVERAGES}
"""Operation of the graph without weights -> operation of a target file."""
FOLDED = frozenset({"batch_norm", "relu", "relu6", "hardtanh"})
"""Operations that every runtime folds into the layer before them."""
_FLOAT_BYTES = 4


@dataclass(frozen=True)
class OperationCost:
    """Predicted cost of one operation for one example, on as many threads as the target's rates are for.

    Attributes:
        name: of the node.
        module: path of its module.
        integer: whether the target has an integer kernel for it.
        macs: multiply-accumulates.
        moved_bytes: weights, inputs and outputs.
        microseconds: predicted time.
        bound: `compute` or `memory`, whichever takes longer.
    """

    name: str
    module: str
    integer: bool
    macs: int
    moved_bytes: int
    microseconds: float
    bound: str


def operation_costs(graph: ModelGraph, target: Target) -> tuple[OperationCost, ...]:
    """Cost of every operation that computes or moves data, in execution order; views, inputs, outputs and what is folded into layers cost nothing.

    Raises:
        TargetError: the target states no rates.
    """
    if target.rates is None:
        raise TargetError(f"Target `{target.name}` states no `rates`, so nothing can be predicted. Add them to its file with their source and date.")
    kinds = {layer.name: layer.kind for layer in graph.layers}
    nodes = {node.name: node for node in graph.nodes}
    sources: dict[str, list[NodeRecord]] = {}
    for source, destination, _ in graph.edges:
        sources.setdefault(destination, []).append(nodes[source])
    return tuple(
        _cost(node, sources.get(node.name, []), _operation(node, kinds) in target.operations, target.rates)
        for node in graph.nodes
        if node.op not in {"input", "output", *FOLDED} and (node.macs or node.activation_bytes)
    )


def module_costs(costs: tuple[OperationCost, ...]) -> dict[str, float]:
    """Microseconds by module path, dearest first; operations outside of any layer stand under the path of the module that makes them."""
    totals: dict[str, float] = {}
    for cost in costs:
        totals[cost.module] = totals.get(cost.module, 0.0) + cost.microseconds
    return dict(sorted(totals.items(), key=lambda item: -item[1]))


def _operation(node: NodeRecord, kinds: dict[str, str]) -> str | None:
    """Operation of a target file that the node is, if any."""
    return OPERATION_OF_KIND.get(kinds.get(node.module, "")) if node.macs else OPERATION_OF_NODE.get(node.op)


def _cost(node: NodeRecord, inputs: list[NodeRecord], integer: bool, rates: Rates) -> OperationCost:
    width = 1 if integer else _FLOAT_BYTES
    activations = sum(_elements(source) for source in inputs) + _elements(node)
    moved = activations * width + node.parameter_bytes * width // _FLOAT_BYTES
    compute = node.macs / ((rates.int8_gmacs_per_s if integer else rates.float_gmacs_per_s) * 1e9)
    memory = moved / (rates.memory_gb_per_s * 1e9)
    bound = "compute" if compute >= memory else "memory"
    return OperationCost(node.name, node.module, integer, node.macs, moved, 1e6 * max(compute, memory), bound)


def _elements(node: NodeRecord) -> int:
    return sum(prod(shape) for shape in node.output_shapes)
