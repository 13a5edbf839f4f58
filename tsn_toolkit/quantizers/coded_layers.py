"""Layers whose weights are integers times one scale per output channel, and the check that they are."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tsn_toolkit.errors import ExportError
from tsn_toolkit.free_parameters import free_parameters
from tsn_toolkit.quantizers.brevitas_graph import SUPPORTED_LAYERS

Codes = Mapping[str, NDArray[np.int8]]
Scales = Mapping[str, NDArray[np.float32]]


def check_layers(model: nn.Module, q: Codes, scale: Scales) -> None:
    """Checks that every weight of the model is scale * q of integers.

    Args:
        model: plain float module.
        q: layer -> int8 codes in [-127, 127], shape of the weight.
        scale: layer -> float32 (out_channels,).

    Raises:
        ExportError: a layer has no codes or no integer form, or its weight is not scale * q.
    """
    modules = dict(model.named_modules())
    free = free_parameters(model)  # tables of embeddings among them, which stay float
    weighted = {
        name
        for name, module in modules.items()
        if isinstance(getattr(module, "weight", None), torch.Tensor) and module.weight.dim() > 1 and f"{name}.weight" not in free
    }
    missing, unknown = sorted(weighted - set(q)), sorted(set(q) - weighted)
    if missing or unknown or set(q) != set(scale):
        raise ExportError(
            f"Codes and layers do not match: layers without codes {missing}, codes without a layer {unknown}, scales for {sorted(scale)}."
        )
    for name, codes in q.items():
        layer = modules[name]
        if not isinstance(layer, SUPPORTED_LAYERS):
            raise ExportError(f"Layer `{name}` is a {type(layer).__name__}, which has no integer export. Supported: Conv1d, Conv2d, Linear.")
        if codes.dtype != np.int8 or codes.shape != tuple(layer.weight.shape) or codes.size and codes.min() < -127:
            shape = tuple(layer.weight.shape)
            raise ExportError(f"Codes of layer `{name}` must be int8 in [-127, 127] of shape {shape}, got {codes.dtype} {codes.shape}.")
        expected = column(torch.from_numpy(np.array(scale[name], np.float32)), codes.ndim) * torch.from_numpy(codes.astype(np.float32))
        if not torch.equal(expected, layer.weight.detach()):
            error = float((expected - layer.weight.detach()).abs().max())
            raise ExportError(
                f"The weight of layer `{name}` is not scale * q: it differs by up to {error:.3g}. Fill the model from the store before export."
            )


def column(vector: torch.Tensor, dims: int) -> torch.Tensor:
    """(out,) -> (out, 1, ...) with `dims` dimensions."""
    return vector.reshape(-1, *[1] * (dims - 1))
