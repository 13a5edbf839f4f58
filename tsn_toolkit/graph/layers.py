"""Layers whose rows are output units, and the numbers that torch's own layers keep of their sizes."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from tsn_toolkit.graph.narrow_attention import narrow_attention_

RECURRENT = (nn.RNNBase, nn.RNNCellBase)


def is_transposed_linear(module: nn.Module) -> bool:
    """A linear layer that stores its weight as (in, out), like `Conv1D` of GPT-2 in transformers."""
    weight = getattr(module, "weight", None)
    return hasattr(module, "nf") and isinstance(weight, torch.Tensor) and weight.ndim == 2


def output_dims(module: nn.Module) -> tuple[tuple[str, int], ...]:
    """(tensor, dimension) of a layer's weights whose indices are its output units; () for modules that produce none."""
    if isinstance(module, _ConvNd):
        return (("weight", int(module.transposed)),)
    if isinstance(module, nn.Linear):
        return (("weight", 0),)
    if isinstance(module, nn.Embedding) or is_transposed_linear(module):
        return (("weight", 1),)
    if isinstance(module, nn.MultiheadAttention):
        names = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
        return tuple((name, 0) for name in names if getattr(module, name) is not None)
    if isinstance(module, RECURRENT):
        return tuple((name, 0) for name, tensor in module.named_parameters(recurse=False) if name.startswith("weight_ih") and tensor.ndim == 2)
    return ()


def match_sizes_(model: nn.Module) -> None:
    """Set the size attributes of torch's own layers to what their weights say."""
    for module in model.modules():
        weight: torch.Tensor | None = getattr(module, "weight", None)
        if isinstance(module, _ConvNd):
            _match_conv_(module)
        elif weight is not None and is_transposed_linear(module):
            vars(module).update({name: length for name, length in zip(("nx", "nf"), weight.shape) if hasattr(module, name)})
        elif isinstance(module, nn.Linear):
            module.out_features, module.in_features = module.weight.shape
        elif isinstance(module, nn.Embedding):
            module.embedding_dim = module.weight.shape[1]
        elif isinstance(module, _NormBase):
            vector = weight if weight is not None else module.running_mean
            module.num_features = module.num_features if vector is None else len(vector)
        elif isinstance(module, nn.GroupNorm) and weight is not None:
            module.num_channels = len(weight)
        elif isinstance(module, (nn.LayerNorm, nn.RMSNorm)) and weight is not None:
            module.normalized_shape = tuple(weight.shape)
        elif isinstance(module, nn.PReLU):
            module.num_parameters = len(module.weight)
        elif isinstance(module, nn.MultiheadAttention):
            narrow_attention_(module)


def _match_conv_(module: _ConvNd) -> None:
    """Channels and groups of a convolution; a depthwise one has a group per channel."""
    rows, columns = module.weight.shape[:2]
    depthwise = module.groups > 1 and module.groups == module.in_channels
    if module.transposed:
        module.groups = rows if depthwise else module.groups
        module.in_channels, module.out_channels = rows, columns * module.groups
    else:
        module.groups = rows // (module.out_channels // module.groups) if depthwise else module.groups
        module.in_channels, module.out_channels = columns * module.groups, rows
