"""The integer model as plain torch operations with explicit quantization, which `torch.export` traces and ExecuTorch's backends recognise.

Every activation quantizer becomes quantize_per_tensor - dequantize_per_tensor with signed 8-bit codes (codes in [0, 255] are stored with zero point
-128), every weight a buffer of the store's integers behind dequantize_per_channel. Biases stay float32; the backend makes int32 of them.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.ao.quantization.fx._decomposed  # noqa: F401  registers torch.ops.quantized_decomposed
import torch.nn.functional as F
from torch import nn

from tsn_toolkit.errors import ExportError
from tsn_toolkit.quantizers.activations import IntegerModel
from tsn_toolkit.quantizers.brevitas_graph import activation_proxies

UNSIGNED_ZERO_POINT = -128


class DecomposedGraph(nn.Module):
    """Runs the nodes of an integer model's graph with decomposed quantizers.

    Args:
        reference: from `build_integer_model`, in graph mode.

    Raises:
        ExportError: the model is not in graph mode.
    """

    def __init__(self, reference: IntegerModel) -> None:
        super().__init__()
        if reference.mode != "graph":
            raise ExportError(f"ExecuTorch needs a model that is quantized as a graph; this one is {reference.mode}: {' '.join(reference.notes)}")
        self._graph = reference.module.graph
        self._plain = dict(reference.module.named_modules())
        self._grids = {name: (float(proxy.scale()), bool(proxy.is_signed)) for name, proxy in activation_proxies(reference.module).items()}
        self._buffers_of = {name: f"layer{index}" for index, name in enumerate(reference.codes)}
        for name, prefix in self._buffers_of.items():
            layer, codes = self._plain[name], reference.codes[name]
            bias = torch.zeros(len(codes)) if layer.bias is None else layer.bias.detach().to(torch.float32).clone()
            self.register_buffer(f"{prefix}_weight", torch.from_numpy(codes.copy()))
            self.register_buffer(f"{prefix}_scale", layer.quant_weight().scale.detach().reshape(-1).to(torch.float32).clone())
            self.register_buffer(f"{prefix}_zero", torch.zeros(len(codes), dtype=torch.int64))
            self.register_buffer(f"{prefix}_bias", bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of float32 inputs (batch, ...)."""
        values: dict[Any, Any] = {}
        for node in self._graph.nodes:
            args = [values[arg] if isinstance(arg, type(node)) else arg for arg in node.args]
            if node.op == "placeholder":
                values[node] = x
            elif node.op == "output":
                return values[node.args[0]]
            elif node.op == "call_module":
                values[node] = self._module(node.target, args[0])
            elif node.op == "call_function":
                values[node] = node.target(*args, **node.kwargs)
            else:
                values[node] = getattr(args[0], node.target)(*args[1:], **node.kwargs)
        raise AssertionError("a graph ends with its output")

    def _module(self, name: str, value: torch.Tensor) -> torch.Tensor:
        if name in self._grids:
            return self._quantized(value, *self._grids[name])
        if name in self._buffers_of:
            return self._layer(self._plain[name], self._buffers_of[name], value)
        return self._plain[name](value)

    def _quantized(self, value: torch.Tensor, scale: float, signed: bool) -> torch.Tensor:
        """Rounded to the quantizer's codes and back; an unsigned one clips at 0, which is its ReLU."""
        zero = 0 if signed else UNSIGNED_ZERO_POINT
        operations = torch.ops.quantized_decomposed
        codes = operations.quantize_per_tensor(value if signed else F.relu(value), scale, zero, -128, 127, torch.int8)
        return operations.dequantize_per_tensor(codes, scale, zero, -128, 127, torch.int8)

    def _layer(self, layer: nn.Module, prefix: str, value: torch.Tensor) -> torch.Tensor:
        codes, scale, zero, bias = (getattr(self, f"{prefix}_{part}") for part in ("weight", "scale", "zero", "bias"))
        weight = torch.ops.quantized_decomposed.dequantize_per_channel(codes, scale, zero, 0, -127, 127, torch.int8)
        if isinstance(layer, nn.Linear):
            return F.linear(value, weight, bias)
        convolve = F.conv1d if codes.dim() == 3 else F.conv2d
        return convolve(value, weight, bias, layer.stride, layer.padding, layer.dilation, layer.groups)
