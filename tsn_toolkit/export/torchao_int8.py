"""Linear layers with int8 weights by torchao: the weight of a program is the store's integers and one scale for each output, not their product.

torchao would quantize a float weight anew, with scales of its own; here its tensor is made of the integers themselves. Inputs stay float32, so only
the order of additions is free. torchao also multiplies int8 inputs (`torch._int_mm`), which CUDA refuses for 16 examples and fewer.
Convolutions have no such form and stay float32.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from tsn_toolkit.contracts import ExtractedModel


def with_int8_linear(model: nn.Module, extracted: ExtractedModel) -> tuple[nn.Module, tuple[str, ...]]:
    """Puts torchao's int8 tensors in place of the weights of linear layers.

    Args:
        model: the task's module with weights scale * q; changed and returned.
        extracted: with the integers and scales.

    Returns:
        (module, layers that stay float32). The state dict of the module holds plain tensors: of each linear layer
        `<layer>.parametrizations.weight.original0` (int8, as the store's) and `.original1` (float32 scales).
    """
    from torchao.quantization.quantize_.workflows.int8.int8_tensor import Int8Tensor
    from torchao.utils import unwrap_tensor_subclass

    stays_float = []
    for name, codes in extracted.q.items():
        layer = model.get_submodule(name)
        if not isinstance(layer, nn.Linear):
            stays_float.append(name)
            continue
        scale = torch.from_numpy(np.array(extracted.scale[name], np.float32)).reshape(-1, 1)
        weight = Int8Tensor(torch.from_numpy(codes.copy()), scale, [1, codes.shape[1]], torch.float32)
        layer.weight = nn.Parameter(weight, requires_grad=False)
    return unwrap_tensor_subclass(model), tuple(stays_float)
