"""Which share of the multiply-accumulates runs in integer kernels, by ONNX Runtime's own profile."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tsn_toolkit.errors import GateError
from tsn_toolkit.export.child import profile
from tsn_toolkit.export.package import read_manifest
from tsn_toolkit.export.processor import session_entries

_INTEGER = frozenset({"QLinearConv", "ConvInteger", "QGemm", "QLinearMatMul", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul"})
_FLOAT = frozenset({"Conv", "FusedConv", "NhwcFusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul", "ConvTranspose"})
_SUPPORTING = frozenset({"QuantizeLinear", "DequantizeLinear", "Transpose", "Flatten", "Reshape", "Squeeze", "Unsqueeze", "Identity"})


@dataclass(frozen=True)
class IntegerShare:
    """What the profile of one run says.

    Attributes:
        share: MACs in integer kernels / all MACs, in [0, 1].
        integer_macs, macs: of one example.
        operations: operation -> number of nodes the runtime executed.
        stays_float: `operation node` of everything that computes in float.
    """

    share: float
    integer_macs: int
    macs: int
    operations: Mapping[str, int]
    stays_float: tuple[str, ...]


def integer_share(folder: Path) -> IntegerShare:
    """Profile one example of a package in another process.

    Args:
        folder: the package.

    Raises:
        GateError: the artefact does not run, or the profile names no layer of the manifest.
    """
    manifest = read_manifest(folder)
    shape = [1, *manifest["inputs"][0]["shape"][1:]]
    runtime = manifest["target"]["runtime"]
    options = session_entries(manifest["target"]["session_options_without_vnni"])
    events = profile(folder / manifest["model_file"], np.zeros(shape, np.float32), runtime=runtime, options=options)
    return share_of(events, {layer["name"]: layer["weight_shape"] for layer in manifest["layers"]})


def share_of(events: list[dict[str, Any]], weight_shapes: Mapping[str, list[int]]) -> IntegerShare:
    """The share from the profiler's node events.

    Args:
        events: one per executed node, names as in the model file: a layer's node is named after the layer.
        weight_shapes: layer -> shape of its weight, (out, in / groups, ...).

    Raises:
        GateError: a weight operation of the profile belongs to no layer, so that its MACs are unknown.
    """
    operations: Counter[str] = Counter()
    integer = total = 0
    stays_float = []
    for event in events:
        operation, name = event["args"]["op_name"], event["name"].removesuffix("_kernel_time")
        operations[operation] += 1
        if operation in _INTEGER or operation in _FLOAT:
            layer = _layer_of(name, weight_shapes)
            macs = math.prod(_single_shape(event["args"]["output_type_shape"])) * math.prod(weight_shapes[layer][1:])
            total += macs
            integer += macs if operation in _INTEGER else 0
        if operation not in _INTEGER and operation not in _SUPPORTING and not operation.startswith("QLinear") and _reads_float(event):
            stays_float.append(f"{operation} {name}")
    if total == 0:
        raise GateError("The runtime's profile holds no convolution or matrix product, so no share of integer kernels can be stated.")
    return IntegerShare(integer / total, integer, total, dict(sorted(operations.items())), tuple(stays_float))


def _layer_of(name: str, weight_shapes: Mapping[str, list[int]]) -> str:
    """The layer a node belongs to: the runtime keeps node names and may append `_token_N`, `_nchwc` and the like."""
    layer, mark, _ = name.partition("::weight")
    if not mark or layer not in weight_shapes:
        raise GateError(f"Node `{name}` of the runtime's profile belongs to none of the layers {sorted(weight_shapes)}.")
    return layer


def _single_shape(types: list[dict[str, list[int]]]) -> list[int]:
    return next(iter(types[0].values()))


def _reads_float(event: dict[str, Any]) -> bool:
    inputs = event["args"]["input_type_shape"]
    return bool(inputs) and "float" in inputs[0]
