"""What the analyzer found, as plain text and as a JSON object."""

from __future__ import annotations

from math import prod
from typing import Any

from tsn_toolkit.contracts import LayerRecord, ModelGraph, NodeRecord
from tsn_toolkit.graph.cost import parameter_bytes, peak_activation_bytes


def layer_groups(graph: ModelGraph) -> dict[str, str]:
    """Layer -> name of the group that its output units belong to; layers of no group (the head) are left out."""
    owner: dict[str, str] = {}
    for group in graph.groups:
        for producer in group.producers:
            owner.setdefault(producer, group.name)
    return owner


def reachable_macs(graph: ModelGraph) -> int:
    """Multiply-accumulates at batch 1 of layers and other products that shrink, on any side, when units of an unfrozen group go."""
    touched = {member.parameter for group in graph.groups if not group.frozen for member in group.members}
    return sum(layer.macs for layer in graph.layers if f"{layer.name}.weight" in touched) + sum(product.macs for product in graph.products)


def graph_json(graph: ModelGraph) -> dict[str, Any]:
    """Everything about the graph as plain values; indices of units are left out, their tensors and dimensions are named."""
    return {
        "fingerprint": graph.fingerprint,
        "input_shape": list(graph.input_shape),
        "inputs": [{"name": given.name, "shape": list(given.shape), "dtype": given.dtype} for given in graph.inputs],
        "head": graph.head,
        "macs": graph.macs,
        "macs_in_unfrozen_groups": reachable_macs(graph),
        "parameter_bytes": parameter_bytes(graph),
        "codable_weights": sum(prod(layer.shape) for layer in graph.layers),
        "peak_activation_bytes": peak_activation_bytes(graph),
        "nodes": [_node(node) for node in graph.nodes],
        "edges": [list(edge) for edge in graph.edges],
        "layers": [
            {"name": layer.name, "kind": layer.kind, "shape": list(layer.shape), "macs": layer.macs, "norm": layer.norm} for layer in graph.layers
        ],
        "free_parameters": [{"name": record.name, "shape": list(record.shape)} for record in graph.free_parameters],
        "products": [
            {"node": product.node, "macs": product.macs, "groups": sorted({name for factor in product.factors for name in factor.units})}
            for product in graph.products
        ],
        "groups": [
            {
                "name": group.name,
                "size": group.size,
                "producers": list(group.producers),
                "frozen": group.frozen,
                "members": [[member.parameter, member.dim] for member in group.members],
            }
            for group in graph.groups
        ],
    }


def _node(node: NodeRecord) -> dict[str, Any]:
    """One node as plain values."""
    return {
        "name": node.name,
        "op": node.op,
        "module": node.module,
        "output_shapes": [list(shape) for shape in node.output_shapes],
        "dtype": node.dtype,
        "macs": node.macs,
        "parameter_bytes": node.parameter_bytes,
        "activation_bytes": node.activation_bytes,
        "source": node.source,
    }


def graph_table(graph: ModelGraph) -> str:
    """Layers with shapes, multiply-accumulates and groups; free parameters; the groups that are frozen and why; totals."""
    owner = layer_groups(graph)
    rows: list[tuple[str, ...]] = [("layer", "kind", "weight", "MACs", "share", "norm", "group")]
    rows += [_row(graph, layer, owner.get(layer.name, "(head)" if layer.name == graph.head else "")) for layer in graph.layers]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.rjust(w) if i in {3, 4} else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths))).rstrip() for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    total = max(graph.macs, 1)
    lines += [
        "",
        f"operations {len(graph.nodes)}, MACs {graph.macs:,}, of them {reachable_macs(graph) / total:.1%} in layers whose units may go",
        f"parameters {parameter_bytes(graph):,} bytes, peak activations {peak_activation_bytes(graph):,} bytes at batch 1",
        f"groups {len(graph.groups)}, frozen {sum(bool(group.frozen) for group in graph.groups)}, head {graph.head}",
    ]
    free = ", ".join(f"{record.name} {'x'.join(map(str, record.shape)) or 'scalar'}" for record in graph.free_parameters)
    lines += [f"free parameters, which stay float: {free}"] if free else []
    lines += [f"frozen {group.name} ({group.size} units): {group.frozen}" for group in graph.groups if group.frozen]
    return "\n".join(lines) + "\n"


def _row(graph: ModelGraph, layer: LayerRecord, group: str) -> tuple[str, ...]:
    """Cells of one layer."""
    shape = "x".join(map(str, layer.shape))
    return layer.name, layer.kind, shape, f"{layer.macs:,}", f"{layer.macs / max(graph.macs, 1):.1%}", layer.norm, group
