"""An owner's numbers into the user's own module, and a module's norms back as two vectors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tsn_toolkit.contracts import HeadState, NormState
from tsn_toolkit.errors import ModelError


class Filling(Protocol):
    """What `fill_` reads: `TaskWeights` has it, and so has the trunk as weights."""

    q: Mapping[str, NDArray[np.int8]]
    scale: Mapping[str, NDArray[np.float32]]
    norms: Mapping[str, NormState]
    biases: Mapping[str, NDArray[np.float32]]
    head: HeadState


def fill_(model: nn.Module, weights: Filling, head: str) -> None:
    """Writes a task's numbers into `model`, in place: weight = scale * q, norms as two vectors, biases, head.

    Args:
        model: the user's module with a head of the task's size.
        weights: integers and vectors of the task.
        head: module path of the head.
    """
    with torch.no_grad():
        for name, q in weights.q.items():
            write_weight_(model.get_submodule(name), q, weights.scale[name])
        for name, norm in weights.norms.items():
            write_norm_(model.get_submodule(name), norm, name)
        parameters = dict(model.named_parameters())
        for name, bias in weights.biases.items():
            target = parameters[f"{name}.bias"]
            target.copy_(torch.from_numpy(bias).view_as(target))
        module = model.get_submodule(head)
        write_weight_(module, weights.head.codes, weights.head.scale)
        if module.bias is not None:
            module.bias.copy_(torch.from_numpy(weights.head.bias))


def write_weight_(module: nn.Module, q: NDArray[np.int8], scale: NDArray[np.float32]) -> None:
    """weight[c, ...] = scale[c] * q[c, ...], in place."""
    values = q.astype(np.float32) * scale.reshape(-1, *([1] * (q.ndim - 1)))
    module.weight.data.copy_(torch.from_numpy(values).view_as(module.weight))


def read_norm(module: nn.Module, name: str) -> NormState:
    """A norm as two vectors; running statistics, where the norm has them, are folded in.

    Raises:
        ModelError: the norm normalises by the batch at hand, so that an answer would depend on its neighbours.
    """
    weight = None if module.weight is None else module.weight.detach().double()
    bias = None if module.bias is None else module.bias.detach().double()
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        if not module.track_running_stats:
            raise ModelError(
                f"norm `{name}` keeps no running statistics, so its answer depends on the batch. "
                "A stored task must answer alone: build the norm with track_running_stats=True."
            )
        gain = torch.rsqrt(module.running_var.double() + module.eps)
        gain = gain if weight is None else gain * weight
        shift = -module.running_mean.double() * gain
        shift = shift if bias is None else shift + bias
    else:
        size = module.normalized_shape[-1] if isinstance(module, nn.LayerNorm) else module.num_channels
        gain = torch.ones(size).double() if weight is None else weight
        shift = torch.zeros(size).double() if bias is None else bias
    return NormState(gain=gain.float().cpu().numpy(), shift=shift.float().cpu().numpy())


def write_norm_(module: nn.Module, norm: NormState, name: str) -> None:
    """Makes `module` compute gain * x_hat + shift, in place."""
    gain, shift = torch.from_numpy(np.array(norm.gain)), torch.from_numpy(np.array(norm.shift))
    if not isinstance(module, nn.modules.batchnorm._BatchNorm):
        if module.weight is not None:
            module.weight.data.copy_(gain.view_as(module.weight))
            if module.bias is not None:
                module.bias.data.copy_(shift.view_as(module.bias))
        return
    module.running_mean.zero_()
    module.running_var.fill_(1.0 - module.eps)
    if module.weight is not None:
        module.weight.data.copy_(gain)
        module.bias.data.copy_(shift)
        return
    alive = gain > 0
    if bool((gain < 0).any()):
        raise ModelError(f"norm `{name}` has no affine parameters and cannot hold a negative gain.")
    safe = torch.where(alive, gain, torch.ones_like(gain))
    module.running_var.copy_(torch.where(alive, 1.0 / safe**2 - module.eps, torch.full_like(gain, 1.0 - module.eps)))
    module.running_mean.copy_(torch.where(alive, -shift / safe, torch.zeros_like(gain)))
