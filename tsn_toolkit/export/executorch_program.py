"""What a `.pte` program says of itself: the nodes that XNNPACK will run, with their weights, and the kernels beside them.

ExecuTorch's own reader (`executorch.exir._serialize`) and the flatbuffer schema of its XNNPACK backend are used, so what is found here is what the
runtime loads. XNNPACK chooses a kernel by the data types of a node's operands, which makes this list an account of its integer kernels.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tsn_toolkit.errors import ExportError

_HEADER_BYTES = 30
_INTEGER_ACTIVATIONS = ("xnn_datatype_qint8", "xnn_datatype_quint8")
_INTEGER_WEIGHTS = "xnn_datatype_qcint8"
_FLOAT = "xnn_datatype_fp32"


@dataclass(frozen=True)
class Node:
    """One operation inside XNNPACK.

    Attributes:
        operation: `Conv2d`, `FullyConnected`, `Add` and so on.
        integer: whether all activations that it reads and writes are 8-bit integers.
        moves: whether it only copies numbers or turns them from one type into another.
        weight: int8 weight as XNNPACK keeps it, inputs last (outputs last where the convolution is depthwise); None where it has none in int8.
        macs: multiply-accumulates for one example; 0 where it has no weight.
    """

    operation: str
    integer: bool
    moves: bool
    weight: NDArray[np.int8] | None
    macs: int


@dataclass(frozen=True)
class ProgramContents:
    """What a program holds.

    Attributes:
        nodes: of all parts that XNNPACK takes, in the order in which they are written.
        kernels: names of ExecuTorch's own kernels that run between those parts.
    """

    nodes: tuple[Node, ...]
    kernels: tuple[str, ...]


def read_program(path: Path) -> ProgramContents:
    """Read a program file.

    Raises:
        ExportError: the file is not a program that this version of ExecuTorch can read.
    """
    from executorch.exir._serialize._program import deserialize_pte_binary

    try:
        file = deserialize_pte_binary(path.read_bytes())
        data = {key: file.named_data.buffers[entry.buffer_index] for key, entry in file.named_data.pte_data.items()} if file.named_data else {}
        plan = file.program.execution_plan[0]
        parts = [_graph(bytes(file.program.backend_delegate_data[delegate.processed.index].data)) for delegate in plan.delegates]
        return ProgramContents(tuple(node for part in parts for node in _nodes(part, data)), tuple(operator.name for operator in plan.operators))
    except Exception as error:  # a damaged file fails in as many ways as it has parts
        raise ExportError(f"`{path.name}` cannot be read: {type(error).__name__}: {error}") from error


def _graph(payload: bytes) -> dict[str, Any]:
    """The graph of one part as JSON."""
    from executorch.backends.xnnpack.serialization.xnnpack_graph_serialize import XNNHeader, _get_schema_bytes
    from executorch.exir._serialize._flatbuffer import _flatc_decompile

    header = XNNHeader.from_bytes(payload[:_HEADER_BYTES])
    with tempfile.TemporaryDirectory(prefix="tsn-") as folder:
        schema, binary = Path(folder) / "schema.fbs", Path(folder) / "graph.bin"
        schema.write_bytes(_get_schema_bytes())
        binary.write_bytes(payload[header.flatbuffer_offset : header.flatbuffer_offset + header.flatbuffer_size])
        _flatc_decompile(folder, str(schema), str(binary), ["--raw-binary", "--strict-json", "--defaults-json"])
        return json.loads((Path(folder) / "graph.json").read_text(encoding="utf-8"))


def _nodes(graph: Mapping[str, Any], data: Mapping[str, bytes]) -> Iterator[Node]:
    values = {}
    for entry in graph["xvalues"]:
        tensor = entry["xvalue_union"].get("tensor_value", entry["xvalue_union"])
        values[tensor["id_out"]] = tensor
    for entry in graph["xnodes"]:
        operation, node = entry["xnode_union_type"].removeprefix("XNN"), entry["xnode_union"]
        ends = [values[node[key]] for key in ("input_id", "input1_id", "input2_id", "output_id") if key in node]
        kinds = [end["datatype"] for end in ends]
        moves = operation in ("Convert", "StaticTranspose", "StaticReshape")
        integer = all(kind in _INTEGER_ACTIVATIONS for kind in kinds)
        filter_ = values[node["filter_id"]] if "filter_id" in node else None
        weight, macs = (None, 0) if filter_ is None else (_weight(filter_, graph, data), _macs(operation, filter_, ends[-1]))
        yield Node(operation, integer and (filter_ is None or filter_["datatype"] == _INTEGER_WEIGHTS), moves, weight, macs)


def _weight(tensor: Mapping[str, Any], graph: Mapping[str, Any], data: Mapping[str, bytes]) -> NDArray[np.int8] | None:
    if tensor["datatype"] != _INTEGER_WEIGHTS:
        return None
    key = graph["constant_data"][tensor["constant_buffer_idx"]]["named_key"]
    return np.frombuffer(data[key], np.int8).reshape(tensor["dims"])


def _macs(operation: str, weight: Mapping[str, Any], output: Mapping[str, Any]) -> int:
    """For one example: numbers of the output times products for each."""
    dims = weight["dims"]
    return math.prod(output["dims"][1:]) * math.prod(dims[:-1] if operation == "DepthwiseConv2d" else dims[1:])
