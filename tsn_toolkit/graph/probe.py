"""A small random copy of a model: what proofs run on."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

PROBE_SEED = 20
PROBE_BATCH = 2


def randomised(model: nn.Module, *, double: bool = True) -> nn.Module:
    """`model` on the processor, float64 (or float32), with random weights, biases, affine parameters and running statistics.

    Constants in floating buffers are kept; on the meta device they become zero. The argument is used up.
    """
    meta = any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))
    if meta:
        model = model.to_empty(device="cpu")
        for buffer in model.buffers():
            buffer.zero_()
    model = model.cpu().double() if double else model.cpu().float()
    generator = torch.Generator().manual_seed(PROBE_SEED)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            randomise_(name, parameter, generator)
        for name, buffer in model.named_buffers():
            if name.rpartition(".")[2] in {"running_mean", "running_var"}:
                randomise_(name, buffer, generator)
    return model


def randomise_(name: str, tensor: torch.Tensor, generator: torch.Generator) -> None:
    """Fill a tensor by the role in its name: matrices uniform with variance 1/fan_in, gains and variances ~ U(.5, 1.5), the rest ~ U(-.5, .5)."""
    if not tensor.is_floating_point():
        return
    leaf = name.rpartition(".")[2]
    if tensor.ndim >= 2:
        bound = (3 / tensor[0].numel()) ** 0.5
        tensor.uniform_(-bound, bound, generator=generator)
    elif leaf in {"weight", "running_var"}:
        tensor.uniform_(0.5, 1.5, generator=generator)
    else:
        tensor.uniform_(-0.5, 0.5, generator=generator)


def random_mask(size: int, kept: int, random: np.random.Generator) -> NDArray[np.bool_]:
    """A mask that keeps `kept` random units."""
    mask = np.zeros(size, dtype=np.bool_)
    mask[random.permutation(size)[:kept]] = True
    return mask
