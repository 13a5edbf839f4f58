"""Trace a pristine model into a `ModelGraph`: operations, costs, codable layers, unit groups."""

from __future__ import annotations

import copy
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import replace
from difflib import get_close_matches

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from tsn_toolkit.contracts import FreeParameterRecord, InputRecord, LayerRecord, ModelGraph, NodeRecord
from tsn_toolkit.errors import GraphError, first_line
from tsn_toolkit.free_parameters import free_parameters
from tsn_toolkit.graph.cost import operation_macs
from tsn_toolkit.graph.export_trace import Exported, export_graph, operations_of
from tsn_toolkit.graph.fingerprint import fingerprint
from tsn_toolkit.graph.flow import follow_units
from tsn_toolkit.graph.fx_trace import trace_by_fx
from tsn_toolkit.graph.groups import find_groups
from tsn_toolkit.graph.inputs import Example, first_examples, run_model, with_vocabularies
from tsn_toolkit.graph.operations import Operation, source_of_traceback
from tsn_toolkit.graph.products import find_products

CODABLE = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
HEADS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
ID_VIEWS = frozenset({"view", "reshape", "flatten", "unsqueeze", "squeeze", "to", "clone", "contiguous", "slice", "alias", "long", "int"})
"""Operations through which ids stay ids."""


def trace(model: nn.Module, example_inputs: Example, *, head: str | None = None) -> ModelGraph:
    """What the analyzer knows of `model`, which is left as it was (values, modes, hooks) and may be on the meta device.

    Args:
        model: any module that accepts any batch size; its outputs may be tensors, tuples or dicts of tensors.
        example_inputs: a tensor, a tuple of tensors in the order of forward's arguments, or a dict of tensors by argument name; each (n, ...),
            n >= 1, of which only the first example is used, so that all costs are at batch 1. Integer tensors are ids or masks.
        head: module path of the classifier; None takes the last linear layer or convolution that feeds the output.

    Raises:
        GraphError: if the model cannot be traced (with the operation and its place), or has no such head.
    """
    records, tensors = first_examples(model, example_inputs)
    quiet = _quiet_copy(model)
    device = next((parameter.device for parameter in quiet.parameters()), tensors[0].device)
    operations, exported = _operations(quiet, records, tuple(tensor.to(device) for tensor in tensors))
    order = _layer_order(quiet, operations)
    head = _find_head(quiet, operations, order, head)
    graph = ModelGraph(
        nodes=_nodes(quiet, operations),
        edges=_edges(operations),
        layers=_layers(quiet, operations, order),
        groups=(),
        head=head,
        input_shape=records[0].shape,
        fingerprint=fingerprint(model),
        inputs=with_vocabularies(records, _vocabularies(operations)),
        free_parameters=tuple(FreeParameterRecord(name, tuple(value.shape)) for name, value in free_parameters(quiet).items()),
    )
    sources: dict[str, str] = {}
    for operation in operations:
        for name in (operation.module, *(parameter.rpartition(".")[0] for parameter in operation.parameters)):
            sources.setdefault(name, operation.source)
    units = None if exported is None else follow_units(quiet, exported)
    groups = find_groups(quiet, graph, units, order, sources)
    return replace(graph, groups=groups, products=() if units is None else find_products(units, groups, _of_layers(operations, graph.layers)))


def _quiet_copy(model: nn.Module) -> nn.Module:
    """A copy in eval mode that shares the tensors of `model`.

    Raises:
        GraphError: a module keeps a tensor that was computed from parameters; such a module has no copies.
    """
    for name, module in model.named_modules():
        computed = [key for key, value in vars(module).items() if isinstance(value, torch.Tensor) and not value.is_leaf]
        if computed:
            raise GraphError(
                f"Layer `{name}` ({type(module).__name__}) keeps a computed tensor, `{computed[0]}`, so that the model cannot be copied. "
                "torch.nn.utils.weight_norm does that: let the factory end with torch.nn.utils.remove_weight_norm on the layer."
            )
    tensors = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    gradients = {id(tensor.grad): tensor.grad for tensor in tensors.values() if tensor.grad is not None}
    return copy.deepcopy(model, {**tensors, **gradients}).eval()


def _vocabularies(operations: Sequence[Operation]) -> dict[int, int]:
    """Position of an input -> length of the smallest embedding that it is looked up in, directly or reshaped."""
    origin: dict[str, int] = {}
    found: dict[int, int] = {}
    for operation in operations:
        if operation.op == "input":
            origin[operation.name] = len(origin)
        elif operation.op in ID_VIEWS and operation.inputs and operation.inputs[0] in origin:
            origin[operation.name] = origin[operation.inputs[0]]
        elif operation.op == "embedding" and operation.inputs and operation.inputs[-1] in origin and operation.parameters:
            index, length = origin[operation.inputs[-1]], operation.input_shapes[0][0]
            found[index] = min(found.get(index, length), length)
    return found


def _operations(model: nn.Module, records: Sequence[InputRecord], tensors: Sequence[torch.Tensor]) -> tuple[tuple[Operation, ...], Exported | None]:
    """Trace by torch.export, by torch.fx where that fails; the exported graph is None then.

    Raises:
        GraphError: if neither can.
    """
    try:
        with _silence():
            exported = export_graph(model, records, tensors)
        return operations_of(exported), exported
    except Exception as export_error:  # torch.export raises many types; every one of them means "try fx"
        _check_runs(model, records, tensors)
        try:
            with _silence():
                return trace_by_fx(model, records, tensors), None
        except Exception as fx_error:
            place, line = source_of_traceback(export_error.__traceback__)
            if not place:
                place, line = source_of_traceback(fx_error.__traceback__)
            where = f" at {place} in `{line}`" if place else ""
            raise GraphError(
                f"The model cannot be traced{where}. torch.export: {first_line(export_error).rstrip('.')}. "
                f"torch.fx: {first_line(fx_error).rstrip('.')}. "
                "Python control flow must not depend on tensor values: use torch.where, or move the decision out of forward."
            ) from export_error


def _check_runs(model: nn.Module, records: Sequence[InputRecord], tensors: Sequence[torch.Tensor]) -> None:
    """Tell an input that does not fit from a model that cannot be traced.

    Raises:
        GraphError: if the model does not run on the example.
    """
    try:
        run_model(model, records, tensors)
    except Exception as error:
        place, line = source_of_traceback(error.__traceback__)
        where = f" at {place} in `{line}`" if place else ""
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors)
        raise GraphError(
            f"The model cannot run on an input of shape {shapes}{where}: {first_line(error).rstrip('.')}. Give the shape it expects."
        ) from error


@contextmanager
def _silence() -> Iterator[None]:
    """Keep torch's own prints, log lines and warnings about a model that fails to trace off the screen: our error says it once."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        sink = io.StringIO()
        with warnings.catch_warnings(), redirect_stdout(sink), redirect_stderr(sink):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _layer_order(model: nn.Module, operations: Sequence[Operation]) -> tuple[str, ...]:
    """Modules of which an operation reads a parameter, in execution order."""
    modules = dict(model.named_modules())
    order: dict[str, None] = {}
    for operation in operations:
        for parameter in operation.parameters:
            path = parameter.rpartition(".")[0]
            if path in modules:
                order.setdefault(path)
    return tuple(order)


def _find_head(model: nn.Module, operations: Sequence[Operation], order: Sequence[str], head: str | None) -> str:
    """The classifier's path.

    Raises:
        GraphError: if `head` is not a layer of the model, or none feeds the output.
    """
    heads = [name for name in order if isinstance(model.get_submodule(name), HEADS)]
    if head is not None:
        if head not in heads:
            near = get_close_matches(head, heads, 1)
            hint = f"; did you mean `{near[0]}`?" if near else "."
            raise GraphError(f"`head` must name a linear layer or convolution of the model, got `{head}`{hint} Known: {', '.join(heads)}.")
        return head
    feeding = {name for operation in operations if operation.op == "output" for name in operation.inputs}
    for operation in reversed(operations):
        if operation.name not in feeding:
            continue
        for parameter in operation.parameters:
            path, _, leaf = parameter.rpartition(".")
            if leaf == "weight" and path in heads:
                return path
        feeding.update(operation.inputs)
    raise GraphError("No linear layer or convolution feeds the model's output, so there is no head. Name one with `head`.")


def _nodes(model: nn.Module, operations: Sequence[Operation]) -> tuple[NodeRecord, ...]:
    """Records of all operations; a parameter counts where it is read first."""
    sizes = {name: parameter.numel() * parameter.element_size() for name, parameter in model.named_parameters(remove_duplicate=False)}
    seen: set[str] = set()
    nodes = []
    for operation in operations:
        first = [name for name in dict.fromkeys(operation.parameters) if name not in seen]
        seen.update(first)
        elements = sum(torch.Size(shape).numel() for shape in operation.output_shapes)
        nodes.append(
            NodeRecord(
                name=operation.name,
                op=operation.op,
                module=operation.module,
                output_shapes=operation.output_shapes,
                dtype=str(operation.dtype).removeprefix("torch."),
                macs=_macs(operation),
                parameter_bytes=sum(sizes.get(name, 0) for name in first),
                activation_bytes=elements * operation.dtype.itemsize if operation.fresh else 0,
                source=operation.source,
            )
        )
    return tuple(nodes)


def _macs(operation: Operation) -> int:
    """Multiply-accumulates of one operation."""
    if not operation.output_shapes or operation.op in {"input", "output"}:
        return 0
    return operation_macs(operation.op, operation.input_shapes, operation.output_shapes[0], equation=operation.equation)


def _edges(operations: Sequence[Operation]) -> tuple[tuple[str, str, int], ...]:
    """One edge per use of an output, so that x + x is two edges."""
    return tuple((source, operation.name, position) for operation in operations for position, source in enumerate(operation.inputs))


def _layers(model: nn.Module, operations: Sequence[Operation], order: Sequence[str]) -> tuple[LayerRecord, ...]:
    """Codable layers in execution order, the head included."""
    norms = _following_norms(model, operations)
    macs: dict[str, int] = {}
    for operation in operations:
        for parameter in operation.parameters:
            if parameter.endswith(".weight"):
                path = parameter.removesuffix(".weight")
                macs[path] = macs.get(path, 0) + _macs(operation)
    records = []
    for name in order:
        layer = model.get_submodule(name)
        if isinstance(layer, CODABLE):
            records.append(LayerRecord(name, type(layer).__name__, tuple(layer.weight.shape), macs.get(name, 0), norms.get(name, "")))
    return tuple(records)


def _of_layers(operations: Sequence[Operation], layers: Sequence[LayerRecord]) -> frozenset[str]:
    """Names of the operations whose multiply-accumulates a layer's record counts."""
    weights = {f"{layer.name}.weight" for layer in layers}
    return frozenset(operation.name for operation in operations if not weights.isdisjoint(operation.parameters))


def _following_norms(model: nn.Module, operations: Sequence[Operation]) -> Mapping[str, str]:
    """Layer -> path of the batch norm that reads its output, is the only one to do so, and reads nothing else."""
    readers: dict[str, list[Operation]] = {}
    for operation in operations:
        for source in operation.inputs:
            readers.setdefault(source, []).append(operation)
    by_norm: dict[str, set[str]] = {}
    by_layer: dict[str, set[str]] = {}
    producer = {operation.name: _weight_owner(operation) for operation in operations}
    for operation in operations:
        if producer[operation.name] and operation.op != "batch_norm":
            following = {reader.module if reader.op == "batch_norm" else "" for reader in readers.get(operation.name, [])}
            alone = len(readers.get(operation.name, [])) == 1
            by_layer.setdefault(producer[operation.name], set()).update(following if alone else {""})
        if operation.op == "batch_norm":
            by_norm.setdefault(operation.module, set()).add(producer.get(operation.inputs[0], "") if operation.inputs else "")
    modules = dict(model.named_modules())
    found = {}
    for layer, norms in by_layer.items():
        norm = next(iter(norms)) if len(norms) == 1 else ""
        if norm and isinstance(modules.get(norm), _BatchNorm) and by_norm[norm] == {layer}:
            found[layer] = norm
    return found


def _weight_owner(operation: Operation) -> str:
    """Path of the module whose `weight` the operation reads, or ""."""
    return next((name.removesuffix(".weight") for name in operation.parameters if name.endswith(".weight")), "")
