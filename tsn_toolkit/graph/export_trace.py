"""Trace a model with torch.export."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.export import export
from torch.export.graph_signature import InputKind

from tsn_toolkit.contracts import InputRecord
from tsn_toolkit.graph.inputs import arguments
from tsn_toolkit.graph.operations import Operation, reads_of, source_of_text


@dataclass(frozen=True)
class Exported:
    """An exported graph.

    Attributes:
        graph: placeholders for parameters, buffers and inputs, one node per operation, one output.
        state: placeholder -> state-dict name of the parameter or buffer that it stands for.
        inputs: names of the placeholders that stand for inputs.
    """

    graph: fx.Graph
    state: Mapping[str, str]
    inputs: tuple[str, ...]


def export_graph(model: nn.Module, records: Sequence[InputRecord], tensors: Sequence[torch.Tensor]) -> Exported:
    """`model` (in eval mode) on `tensors`.

    Raises:
        Exception: whatever torch.export raises on a model that it cannot export.
    """
    positional, keywords = arguments(records, tensors)
    with torch.no_grad():  # or every `no_grad` inside the model becomes a graph of its own
        program = export(model, positional, keywords, strict=False)
    specs = {spec.arg.name: spec for spec in program.graph_signature.input_specs}
    state = {name: spec.target for name, spec in specs.items() if spec.kind != InputKind.USER_INPUT and spec.target is not None}
    return Exported(program.graph, state, tuple(name for name, spec in specs.items() if spec.kind == InputKind.USER_INPUT))


def operations_of(exported: Exported) -> tuple[Operation, ...]:
    """Operations of an exported graph in execution order."""
    state = exported.state
    return tuple(_operation(node, state) for node in exported.graph.nodes if node.name not in state and node.op != "get_attr")


def _operation(node: fx.Node, state: Mapping[str, str]) -> Operation:
    """One node of the exported graph; `state` maps the names of parameter placeholders to state-dict names."""
    reads = [read for read in reads_of(node) if read.op != "get_attr"]
    outputs = _tensors(node.meta.get("val")) if node.op != "output" else [t for read in reads for t in _tensors(read.meta.get("val"))]
    return Operation(
        name=node.name,
        op=op_name(node),
        module=module_path(node),
        inputs=tuple(read.name for read in reads if read.name not in state),
        parameters=tuple(state[read.name] for read in reads if read.name in state),
        input_shapes=tuple(tuple(t.shape) for read in reads for t in _tensors(read.meta.get("val"))[:1]),
        output_shapes=tuple(tuple(t.shape) for t in outputs),
        dtype=outputs[0].dtype if outputs else torch.float32,
        fresh=_fresh(node),
        equation=node.args[0] if node.args and isinstance(node.args[0], str) else "",
        source=source_of_text(node.meta.get("stack_trace", "")),
    )


def _tensors(value: Any) -> list[torch.Tensor]:
    """The tensors in a node's value, which is a tensor, a sequence of tensors, or something without."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, (list, tuple)):
        return [item for item in value if isinstance(item, torch.Tensor)]
    return []


def op_name(node: fx.Node) -> str:
    """`conv2d` of `aten.conv2d.default`, `relu` of `aten.relu_.default`."""
    if node.op == "placeholder":
        return "input"
    if node.op == "output":
        return "output"
    if node.target is operator.getitem:
        return "getitem"
    schema = getattr(node.target, "_schema", None)
    name = schema.name.split("::")[-1] if schema is not None else getattr(node.target, "__name__", str(node.target))
    return name.strip("_")


def module_path(node: fx.Node) -> str:
    """Path of the innermost module whose forward made the node."""
    stack = node.meta.get("nn_module_stack") or {}
    paths = [entry[0] for entry in stack.values()]
    return paths[-1].partition("@")[0] if paths else ""  # a module's second call is marked `name@1`


def _fresh(node: fx.Node) -> bool:
    """Whether the output has a storage of its own: False for views, in-place operations, dropout at rest and the output node."""
    if node.op != "call_function":
        return node.op == "placeholder"
    if node.target is operator.getitem:
        return False
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return True
    if schema.name.split("::")[-1] in {"dropout", "dropout_", "feature_dropout", "alpha_dropout"}:
        return False
    return all(returned.alias_info is None for returned in schema.returns)
