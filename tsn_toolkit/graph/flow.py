"""Follow units through an exported graph: every index of every parameter starts as an atom, rules join them.

The idea of propagating index couplings through a graph is that of DepGraph (Fang et al., "DepGraph: Towards Any Structural Pruning", CVPR 2023).
Deviations: couplings are between indices of parameters rather than between layers, so that heads, chunks and shared tables need no special case; and
they are read off the exported operations, never off a list of layer types.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from tsn_toolkit.graph import join_rules, norm_rules, product_rules, shape_rules  # noqa: F401, they register their rules
from tsn_toolkit.graph.couplings import Count, Couplings, Product, Reason
from tsn_toolkit.graph.export_trace import Exported, module_path, op_name
from tsn_toolkit.graph.rules import Call, Maps, apply_rule
from tsn_toolkit.graph.unit_map import Atoms, UnitMap


@dataclass(frozen=True)
class Units:
    """What couples with what.

    Attributes:
        atoms: (parameter or buffer, dimension) -> atoms of its indices; dimensions of length 1 have none. Tied tensors share their atoms.
        unit: unit of every atom, named by its smallest atom.
        why: for every unit the number of the reason why it stays, -1 where it may go.
        reasons: in execution order.
        counts: numbers in the code that may count units.
        products: everything that was multiplied, in execution order, layers included.
        read: names of the parameters and buffers that the output depends on, tied ones under each of their names.
    """

    atoms: Mapping[tuple[str, int], Atoms]
    unit: Atoms
    why: Atoms
    reasons: tuple[Reason, ...]
    counts: tuple[Count, ...]
    products: tuple[Product, ...]
    read: frozenset[str]


def follow_units(model: nn.Module, exported: Exported) -> Units:
    """The units of an exported model."""
    tensors = {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers(remove_duplicate=False))}
    atoms, total = _number(tensors)
    book = Couplings()
    maps: dict[fx.Node, Maps] = {}
    live = _live(exported.graph)
    read: set[str] = set()
    for node in exported.graph.nodes:
        if node not in live:
            continue
        book.node = node
        if node.op == "placeholder":
            name = exported.state.get(node.name, "")
            read.add(name)
            maps[node] = _parameter(name, tensors, atoms) if name in tensors else _unknown(node)
        elif node.op == "call_function":
            maps[node] = _call(book, node, maps)
        elif node.op == "output":
            for source in node.all_input_nodes:
                for item in _each_map(maps.get(source)):
                    for factor in item.factors:
                        book.freeze(factor, "they are part of the model's output")
        else:
            maps[node] = _unknown(node)
    unit, why, reasons = book.resolve(total)
    tensors_read = {id(tensors[name]) for name in read if name in tensors}
    names = frozenset(name for name, tensor in tensors.items() if id(tensor) in tensors_read)
    return Units(atoms, unit, why, reasons, tuple(book.counts), tuple(book.products), names)


def _number(tensors: Mapping[str, torch.Tensor]) -> tuple[dict[tuple[str, int], Atoms], int]:
    """Atoms of all floating tensors, tied ones once, and their number; tables of integers hold positions, never units."""
    atoms: dict[tuple[str, int], Atoms] = {}
    first: dict[int, str] = {}
    total = 0
    for name, tensor in tensors.items():
        owner = first.setdefault(id(tensor), name)
        if not tensor.is_floating_point():
            continue
        for dim, length in enumerate(tensor.shape):
            if owner != name:
                if length > 1:
                    atoms[name, dim] = atoms[owner, dim]
            elif length > 1:
                atoms[name, dim] = np.arange(total, total + length, dtype=np.int64)
                total += length
    return atoms, total


def _parameter(name: str, tensors: Mapping[str, torch.Tensor], atoms: Mapping[tuple[str, int], Atoms]) -> UnitMap:
    """A bare parameter: one factor per dimension."""
    shape = tuple(tensors[name].shape)
    factors = []
    for dim, length in enumerate(shape):
        if (name, dim) in atoms:
            factors.append(atoms[name, dim].reshape(tuple(length if other == dim else 1 for other in range(len(shape)))))
    return UnitMap(shape, tuple(factors), parameter=True)


def _live(graph: fx.Graph) -> set[fx.Node]:
    """Nodes that the output depends on; an operation that changes its input in place counts if anything else reads that input."""
    live: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        schema = getattr(node.target, "_schema", None)
        if node.op == "output" or node in live or (schema is not None and schema.is_mutable and node.all_input_nodes[0] in live):
            live.add(node)
            live.update(node.all_input_nodes)
        elif schema is not None and schema.is_mutable and len(node.all_input_nodes[0].users) > 1:
            live.add(node)
            live.update(node.all_input_nodes)
    return live


def _call(book: Couplings, node: fx.Node, maps: Mapping[fx.Node, Maps]) -> Maps:
    """The maps of one operation's outputs."""
    if op_name(node) == "getitem":
        source, index = node.args
        found = maps.get(source)  # type: ignore[arg-type]
        return found[index] if isinstance(found, list) else _unknown(node)  # type: ignore[index]
    shapes = _shapes(node)
    schema = getattr(node.target, "_schema", None)
    inputs = [item for source in node.all_input_nodes for item in _each_map(maps.get(source))]
    if schema is None or not any(item.factors for item in inputs):
        for item in inputs:
            for factor in item.factors:
                book.freeze(factor, f"`{op_name(node)}` is an operation whose units cannot be followed")
        return _unknown(node)
    values: dict[str, Any] = {}
    for position, argument in enumerate(schema.arguments):
        value = node.args[position] if position < len(node.args) else node.kwargs.get(argument.name, argument.default_value)
        values[argument.name] = _substituted(value, maps)
    return apply_rule(book, Call(op_name(node), values, shapes, module_path(node), torch.Tag.pointwise in node.target.tags))  # type: ignore[union-attr]


def _substituted(value: Any, maps: Mapping[fx.Node, Maps]) -> Any:
    """An argument with unit maps in place of nodes."""
    if isinstance(value, fx.Node):
        return maps.get(value)
    if isinstance(value, (list, tuple)):
        return [_substituted(item, maps) for item in value]
    return value


def _unknown(node: fx.Node) -> Maps:
    """Outputs without units."""
    value = node.meta.get("val")
    if isinstance(value, (list, tuple)):
        return [UnitMap(shape) for shape in _shapes(node)]
    return UnitMap(tuple(value.shape) if isinstance(value, torch.Tensor) else ())


def _shapes(node: fx.Node) -> tuple[tuple[int, ...], ...]:
    """Shapes of a node's outputs; () for what is no tensor."""
    value = node.meta.get("val")
    values = value if isinstance(value, (list, tuple)) else [value]
    return tuple(tuple(item.shape) if isinstance(item, torch.Tensor) else () for item in values)


def _each_map(value: Maps | None) -> Iterable[UnitMap]:
    """The maps of a node's outputs."""
    return () if value is None else value if isinstance(value, list) else (value,)
