"""Trace a model with torch.fx, for models that torch.export cannot export."""

from __future__ import annotations

import inspect
import operator
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx, nn
from torch.fx.passes.shape_prop import ShapeProp, TensorMetadata

from tsn_toolkit.contracts import InputRecord
from tsn_toolkit.graph.operations import Operation, reads_of, source_of_text

MODULE_OPS = {
    nn.Conv1d: "conv1d",
    nn.Conv2d: "conv2d",
    nn.Conv3d: "conv3d",
    nn.ConvTranspose1d: "conv_transpose1d",
    nn.ConvTranspose2d: "conv_transpose2d",
    nn.ConvTranspose3d: "conv_transpose3d",
    nn.Linear: "linear",
    nn.BatchNorm1d: "batch_norm",
    nn.BatchNorm2d: "batch_norm",
    nn.BatchNorm3d: "batch_norm",
    nn.LayerNorm: "layer_norm",
    nn.GroupNorm: "group_norm",
    nn.LSTM: "lstm",
    nn.GRU: "gru",
    nn.ReLU: "relu",
}
VIEWS = frozenset({"flatten", "view", "reshape", "permute", "transpose", "squeeze", "unsqueeze", "chunk", "split", "getitem", "dropout", "identity"})


def trace_by_fx(model: nn.Module, records: Sequence[InputRecord], tensors: Sequence[torch.Tensor]) -> tuple[Operation, ...]:
    """Operations of `model` (in eval mode) on `tensors`, in execution order.

    Raises:
        Exception: whatever torch.fx raises on a model that it cannot trace (control flow on values, for example).
    """
    given = {record.name: tensor for record, tensor in zip(records, tensors)} if any(record.keyword for record in records) else {}
    defaults = {name: None for name in _optional(model) if name not in given} if given else {}
    module = fx.GraphModule(model, fx.Tracer().trace(model, concrete_args=defaults or None))
    places = [node.target for node in module.graph.nodes if node.op == "placeholder"]
    with torch.no_grad():
        ShapeProp(module).propagate(*([given.get(str(place)) for place in places] if given else tensors))
    return tuple(_operation(node, module) for node in module.graph.nodes if node.op != "get_attr")


def _optional(model: nn.Module) -> list[str]:
    """Arguments of forward that have a default."""
    parameters = inspect.signature(model.forward).parameters.values()
    return [parameter.name for parameter in parameters if parameter.default is not parameter.empty]


def _operation(node: fx.Node, module: fx.GraphModule) -> Operation:
    """One node of the traced graph."""
    reads = reads_of(node)
    parameters = [str(read.target) for read in reads if read.op == "get_attr"]
    shapes = [shape for read in reads for shape in _shapes(read)[:1]]
    op = _op_name(node, module)
    if node.op == "call_module":
        target = module.get_submodule(str(node.target))
        own = [(f"{node.target}.{name}", tuple(p.shape)) for name, p in target.named_parameters()]
        parameters += [name for name, _ in own]
        shapes += [shape for _, shape in own]
    outputs = _shapes(node) if node.op != "output" else [shape for read in reads for shape in _shapes(read)]
    return Operation(
        name=node.name,
        op=op,
        module=str(node.target) if node.op == "call_module" else _module_path(node),
        inputs=tuple(read.name for read in reads if read.op != "get_attr"),
        parameters=tuple(parameters),
        input_shapes=tuple(shapes),
        output_shapes=tuple(outputs),
        dtype=_dtype(node.meta.get("tensor_meta")),
        fresh=node.op != "output" and op not in VIEWS,
        equation=node.args[0] if node.args and isinstance(node.args[0], str) else "",
        source=source_of_text(node.meta.get("stack_trace") or node.stack_trace or ""),
    )


def _op_name(node: fx.Node, module: fx.GraphModule) -> str:
    """`conv2d` for a Conv2d module, `add` for operator.add, `flatten` for the method."""
    if node.op in {"placeholder", "output"}:
        return "input" if node.op == "placeholder" else "output"
    if node.op == "call_module":
        kind = type(module.get_submodule(str(node.target)))
        known = next((op for base, op in MODULE_OPS.items() if issubclass(kind, base)), "")
        return known or re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", kind.__name__).lower()
    if node.op == "call_method":
        return str(node.target).strip("_")
    return "getitem" if node.target is operator.getitem else getattr(node.target, "__name__", str(node.target)).strip("_")


def _module_path(node: fx.Node) -> str:
    """Path of the innermost module whose forward made the node."""
    stack = node.meta.get("nn_module_stack") or {}
    paths = [entry[0] for entry in stack.values()]
    return paths[-1] if paths else ""


def _shapes(node: fx.Node) -> list[tuple[int, ...]]:
    """Shapes of the tensors in a node's value."""
    if node.op == "get_attr":
        owner: Any = node.graph.owning_module
        for part in str(node.target).split("."):
            owner = getattr(owner, part)
        return [tuple(owner.shape)] if isinstance(owner, torch.Tensor) else []
    return [tuple(meta.shape) for meta in _metas(node.meta.get("tensor_meta"))]


def _metas(value: Any) -> list[TensorMetadata]:
    """The tensor metadata in what ShapeProp noted (TensorMetadata is itself a tuple)."""
    if isinstance(value, TensorMetadata):
        return [value]
    if isinstance(value, (list, tuple)):
        return [meta for item in value for meta in _metas(item)]
    return []


def _dtype(value: Any) -> torch.dtype:
    """Dtype of the first tensor noted; float32 where there is none."""
    metas = _metas(value)
    return metas[0].dtype if metas else torch.float32
