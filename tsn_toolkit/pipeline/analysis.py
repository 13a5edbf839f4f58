"""What `tsn analyze` shows of a model: table, JSON record, picture, and costs on a target."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tsn_toolkit.contracts import ModelGraph
from tsn_toolkit.factory import call_factory
from tsn_toolkit.graph.inputs import Example
from tsn_toolkit.graph.listing import graph_json, graph_table
from tsn_toolkit.graph.picture import graph_svg
from tsn_toolkit.graph.roofline import OPERATION_OF_KIND, module_costs, operation_costs
from tsn_toolkit.graph.trace import trace
from tsn_toolkit.model_loading import load_model
from tsn_toolkit.target import Target, load_target

INPUT_SYNTAX = "write shapes with their batch, `1x3x32x32` or `1x128:int64,1x128:int64`, or a factory of tensors, `file.py:make_inputs`"
SHOWN_MODULES = 10
_DTYPES = {name: getattr(torch, name) for name in ("float32", "float64", "float16", "bfloat16", "int64", "int32", "bool")}


def analyze_model(
    factory: str, inputs: Example, checkpoint: Path | None, head: str | None, target_name: str | None
) -> tuple[str, dict[str, Any], str]:
    """Table, JSON record and picture of a module, with its predicted cost where a target is named.

    Args:
        factory: of the module.
        inputs: a tensor, a tuple of tensors, or a dict of tensors by argument name, each with its batch.
        checkpoint: trained weights to load first.
        head: module path of the classifier.
        target_name: name or file of a target.

    Raises:
        ModelError, GraphError, TargetError: there is no such model; it cannot be traced; there is no such target.
    """
    graph = trace(load_model(factory, checkpoint), inputs, head=head)
    table, record = graph_table(graph), graph_json(graph)
    if target_name is not None:
        record["target"] = target_record(graph, load_target(target_name))
        table += "\n\n" + "\n".join(_target_lines(record["target"]))
    return table, record, graph_svg(graph)


def example_inputs(text: str) -> Example:
    """Zeros of the shapes, or what the factory gives.

    Raises:
        ValueError: the text is neither.
        ModelError: the factory cannot be called.

    >>> [(x.shape, x.dtype) for x in example_inputs("1x3x8x8,2x5:int64")]
    [(torch.Size([1, 3, 8, 8]), torch.float32), (torch.Size([2, 5]), torch.int64)]
    """
    if ":" in text and not text[:1].isdecimal():
        made: Example = call_factory(text)
        return made
    tensors = tuple(_zeros(part.strip()) for part in text.split(","))
    return tensors if len(tensors) > 1 else tensors[0]


def _zeros(text: str) -> torch.Tensor:
    shape_text, _, dtype = text.partition(":")
    sizes = shape_text.split("x")
    shaped = all(size.isdecimal() and int(size) > 0 for size in sizes) and (dtype or len(sizes) > 1)
    if not shaped or (dtype or "float32") not in _DTYPES:
        raise ValueError(f"{text!r} is not a shape such as 1x3x32x32 (batch first, all at least 1); {INPUT_SYNTAX}. Types: {', '.join(_DTYPES)}.")
    try:
        return torch.zeros([int(size) for size in sizes], dtype=_DTYPES[dtype or "float32"])
    except (RuntimeError, TypeError, OverflowError) as problem:  # torch's words for more values than fit or can be counted
        raise ValueError(f"{text!r} has more values than the memory takes. Give a smaller shape.") from problem


def target_record(graph: ModelGraph, target: Target) -> dict[str, Any]:
    """What a target makes of a model, as plain values.

    Returns:
        `name`; `integer_mac_share`: share of the layers' MACs in integer kernels, by the target's operation table; `stays_float`: layers outside;
        `roofline` (None without rates): `threads`, `microseconds` of one example, `modules` (path -> microseconds, dearest first), `operations`.
    """
    taken = {layer.name: layer.macs for layer in graph.layers if OPERATION_OF_KIND.get(layer.kind) in target.operations}
    total = sum(layer.macs for layer in graph.layers)
    return {
        "name": target.name,
        "integer_mac_share": sum(taken.values()) / total if total else 0.0,
        "stays_float": [layer.name for layer in graph.layers if layer.name not in taken],
        "roofline": _roofline(graph, target),
    }


def _roofline(graph: ModelGraph, target: Target) -> dict[str, Any] | None:
    if target.rates is None:
        return None
    costs = operation_costs(graph, target)
    return {
        "threads": target.rates.threads,
        "microseconds": sum(cost.microseconds for cost in costs),
        "modules": module_costs(costs),
        "operations": [vars(cost) for cost in costs],
    }


def _target_lines(record: dict[str, Any]) -> list[str]:
    lines = [f"target {record['name']}: {record['integer_mac_share']:.1%} of the MACs in integer kernels"]
    lines += [f"  stays float: {name}" for name in record["stays_float"]]
    roofline = record["roofline"]
    if roofline is None:
        return [*lines, "  the target states no rates, so no time is predicted"]
    lines.append(f"  at least {roofline['microseconds']:,.0f} us per example on {roofline['threads']} thread(s) (roofline); dearest modules:")
    bound = {operation["module"]: operation["bound"] for operation in sorted(roofline["operations"], key=lambda found: found["microseconds"])}
    for module, microseconds in list(roofline["modules"].items())[:SHOWN_MODULES]:
        share = microseconds / max(roofline["microseconds"], 1e-12)
        lines.append(f"    {module or '(top)':<32} {microseconds:>10,.1f} us {share:>6.1%}  {bound[module]}")
    return lines
