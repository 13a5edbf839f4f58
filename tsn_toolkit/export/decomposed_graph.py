"""The integer model as plain torch operations with explicit quantization, which `torch.export` traces and ExecuTorch's backends recognise.

Every activation quantizer becomes quantize_per_tensor - dequantize_per_tensor with signed 8-bit codes (codes in [0, 255] are stored with zero point
-128, where clipping is the ReLU), every weight a buffer of the store's integers behind dequantize_per_channel. Biases stay float32; the backend makes
int32 of them. What moves codes without computing (pooling of maxima, reshaping) is quantized again on the same grid, which changes no code: backends
take an operation for an integer one only between two quantizers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.ao.quantization.fx._decomposed  # noqa: F401  registers torch.ops.quantized_decomposed
import torch.nn.functional as F
from torch import nn

from tsn_toolkit.errors import ExportError
from tsn_toolkit.export.integer_interpreter import JOINS, PRESERVING, RESHAPES, arguments
from tsn_toolkit.quantizers.activations import IntegerModel
from tsn_toolkit.quantizers.brevitas_graph import activation_proxies, rectifies
from tsn_toolkit.quantizers.plain_calls import parted, sliced

_POOLING_1D = (nn.MaxPool1d, nn.AvgPool1d, nn.AdaptiveAvgPool1d)


@dataclass(frozen=True)
class Grid:
    """Where codes lie: real = scale * (code - zero_point), code in [-128, 127]."""

    scale: float
    zero_point: int


@dataclass(frozen=True)
class _Value:
    """A float tensor, or several that another was taken apart into, and the grid that all its numbers lie on, None where there is none."""

    tensor: Any
    grid: Grid | None = None


class DecomposedGraph(nn.Module):
    """Runs the nodes of an integer model's graph with decomposed quantizers.

    Args:
        reference: from `build_integer_model`, in graph mode.

    Raises:
        ExportError: the model is not in graph mode, or reads a parameter or buffer beside its layers.
    """

    def __init__(self, reference: IntegerModel) -> None:
        super().__init__()
        if reference.mode != "graph":
            raise ExportError(f"ExecuTorch needs a model that is quantized as a graph; this one is {reference.mode}: {' '.join(reference.notes)}")
        self._graph = reference.module.graph
        read = [node.target for node in self._graph.nodes if node.op == "get_attr"]
        if read:
            raise ExportError(f"`{read[0]}` is a parameter or buffer of no layer, which has no form in an ExecuTorch program of this exporter.")
        # One module may stand in the graph under several names, so that quantizers and layers are known by identity.
        self._plain = {node.target: reference.module.get_submodule(node.target) for node in self._graph.nodes if node.op == "call_module"}
        grids = {id(reference.module.get_submodule(name)): _grid(proxy) for name, proxy in activation_proxies(reference.module).items()}
        rectifying = {id(reference.module.get_submodule(name)) for name, proxy in activation_proxies(reference.module).items() if rectifies(proxy)}
        layers = {id(reference.module.get_submodule(name)): name for name in reference.codes}
        self._grids = {name: grids[id(module)] for name, module in self._plain.items() if id(module) in grids}
        self._rectifying = {name for name, module in self._plain.items() if id(module) in rectifying}
        self._layers = {name: layers[id(module)].replace(".", "_") for name, module in self._plain.items() if id(module) in layers}
        for name, codes in reference.codes.items():
            layer, prefix = reference.module.get_submodule(name), name.replace(".", "_")
            bias = torch.zeros(len(codes)) if layer.bias is None else layer.bias.detach().to(torch.float32).clone()
            self.register_buffer(f"{prefix}_weight", torch.from_numpy(codes.copy()))
            self.register_buffer(f"{prefix}_scale", layer.quant_weight().scale.detach().reshape(-1).to(torch.float32).clone())
            self.register_buffer(f"{prefix}_zero", torch.zeros(len(codes), dtype=torch.int64))
            self.register_buffer(f"{prefix}_bias", bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of float32 inputs (batch, ...)."""
        values: dict[Any, Any] = {}
        for node in self._graph.nodes:
            if node.op == "output":
                return values[node.args[0]].tensor
            values[node] = _Value(x) if node.op == "placeholder" else self._computed(node, values)
        raise AssertionError("a graph ends with its output")

    def _computed(self, node: Any, values: dict[Any, Any]) -> _Value:
        args, kwargs = arguments(node, values)
        plain = [_plain(arg) for arg in args]
        if node.op == "call_module" and node.target in self._grids:
            grid = self._grids[node.target]
            below_zero = node.target in self._rectifying and grid.zero_point == 0  # elsewhere the lowest code is 0
            return _quantized(torch.relu(plain[0]) if below_zero else plain[0], grid)
        if node.op == "call_module" and node.target in self._layers:
            return _Value(self._layer(self._plain[node.target], self._layers[node.target], plain[0]))
        module = self._plain[node.target] if node.op == "call_module" else None
        if isinstance(module, _POOLING_1D):
            return _pooled(module, args[0])
        result = self._called(node, plain, kwargs)
        if node.target in JOINS:
            grids = {part.grid for part in args[0]}
            return _quantized(result, grids.pop() if len(grids) == 1 else None)
        if node.target in (sliced, parted):
            grid = next(arg.grid for arg in args if isinstance(arg, _Value))
            return _Value(result, grid) if isinstance(result, tuple) else _quantized(result, grid)
        if node.target in RESHAPES or isinstance(module, nn.Flatten):
            result = plain[0].view(-1, *result.shape[1:])  # XNNPACK takes a reshape with one size left open, not one that asks for the batch
        elif not isinstance(module, PRESERVING):
            return _Value(result)
        return _quantized(result, args[0].grid)

    def _called(self, node: Any, args: list[Any], kwargs: dict[str, Any]) -> torch.Tensor:
        if node.op == "call_module":
            return self._plain[node.target](*args)
        if node.op == "call_function":
            return node.target(*args, **kwargs)
        return getattr(args[0], node.target)(*args[1:], **kwargs)

    def _layer(self, layer: nn.Module, prefix: str, value: torch.Tensor) -> torch.Tensor:
        codes, scale, zero, bias = (getattr(self, f"{prefix}_{part}") for part in ("weight", "scale", "zero", "bias"))
        weight = torch.ops.quantized_decomposed.dequantize_per_channel(codes, scale, zero, 0, -127, 127, torch.int8)
        if isinstance(layer, nn.Linear):
            return F.linear(value, weight, bias)
        convolve = F.conv1d if codes.dim() == 3 else F.conv2d
        return convolve(value, weight, bias, layer.stride, layer.padding, layer.dilation, layer.groups)


def _plain(value: Any) -> Any:
    """An argument with tensors in place of values."""
    if isinstance(value, list):
        return [_plain(part) for part in value]
    return value.tensor if isinstance(value, _Value) else value


def _pooled(module: Any, x: _Value) -> _Value:
    """Pooling of (batch, channels, length) as pooling of images of width 1, the only one that XNNPACK has."""
    image = _quantized(x.tensor.view(-1, *x.tensor.shape[1:], 1), x.grid).tensor
    grid = None
    if isinstance(module, nn.AdaptiveAvgPool1d):
        pooled = F.adaptive_avg_pool2d(image, (_one(module.output_size), 1))
    else:
        kernel, stride, padding = (_one(module.kernel_size), 1), (_one(module.stride), 1), (_one(module.padding), 0)
        if isinstance(module, nn.AvgPool1d):
            pooled = F.avg_pool2d(image, kernel, stride, padding, module.ceil_mode, module.count_include_pad)
        else:
            grid = x.grid
            pooled = _quantized(F.max_pool2d(image, kernel, stride, padding, (_one(module.dilation), 1), module.ceil_mode), grid).tensor
    return _quantized(pooled.view(-1, *pooled.shape[1:3]), grid)


def _one(size: int | tuple[int, ...]) -> int:
    return size if isinstance(size, int) else size[0]


def _grid(proxy: Any) -> Grid:
    return Grid(float(proxy.scale().detach()), 0 if proxy.is_signed else -128)


def _quantized(tensor: torch.Tensor, grid: Grid | None) -> _Value:
    """Rounded to the grid's codes and back; as it is where there is no grid."""
    if grid is None:
        return _Value(tensor)
    operations = torch.ops.quantized_decomposed
    codes = operations.quantize_per_tensor(tensor, grid.scale, grid.zero_point, -128, 127, torch.int8)
    return _Value(operations.dequantize_per_tensor(codes, grid.scale, grid.zero_point, -128, 127, torch.int8), grid)
