"""An owner's numbers into the user's own module, a module's norms back as two vectors, and the check that nothing of a module is left out."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.utils import parametrize

from tsn_toolkit.contracts import HeadState, ModelGraph, NormState
from tsn_toolkit.errors import ModelError
from tsn_toolkit.free_parameters import free_parameters, write_free_parameters_

NORM_TYPES = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)
"""Norms that a store holds as two vectors."""

CODED_TYPES = (nn.Conv1d, nn.Conv2d, nn.Linear)
"""Layers whose weights a store holds as integers."""


class Filling(Protocol):
    """What `fill_` reads: `TaskWeights` has it, and so has the trunk as weights."""

    @property
    def q(self) -> Mapping[str, NDArray[np.int8]]: ...
    @property
    def scale(self) -> Mapping[str, NDArray[np.float32]]: ...
    @property
    def norms(self) -> Mapping[str, NormState]: ...
    @property
    def biases(self) -> Mapping[str, NDArray[np.float32]]: ...
    @property
    def head(self) -> HeadState: ...
    @property
    def free_parameters(self) -> Mapping[str, NDArray[np.float32]]: ...


def fill_(model: nn.Module, weights: Filling, head: str) -> None:
    """Writes a task's numbers into `model`, in place: weight = scale * q, norms as two vectors, biases, free parameters, head.

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
        write_free_parameters_(model, weights.free_parameters)
        module = model.get_submodule(head)
        write_weight_(module, weights.head.codes, weights.head.scale)
        if module.bias is not None:
            module.bias.copy_(torch.from_numpy(weights.head.bias))


def check_storable(model: nn.Module, graph: ModelGraph) -> None:
    """Checks that a store can hold everything of a module that learning or a checkpoint may change.

    Without this check such a number would silently keep its fresh value in every task that is decoded.

    Args:
        model: the pristine module.
        graph: of that module.

    Raises:
        ModelError: a norm keeps no running statistics; a parameter has no place in a store, or two names; a float buffer changes in training.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            _check_statistics(module, name)
    held = _held_parameters(model, graph)
    first_name: dict[int, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        other = first_name.setdefault(id(parameter), name)
        if other != name:
            raise ModelError(f"parameters `{other}` and `{name}` are one tensor; a store codes each by itself. Give each layer a weight of its own.")
        if name not in held:
            owner = type(model.get_submodule(name.rpartition(".")[0])).__name__
            raise ModelError(
                f"a store has no place for parameter `{name}` of shape {tuple(parameter.shape)} ({owner}). It holds weights and biases of Conv1d, "
                "Conv2d and Linear layers that the forward reads, the vectors of BatchNorm, LayerNorm and GroupNorm, embeddings, and parameters that "
                "modules of your own declare. "
                + _computed_weight(model, name)
                + "Build the model from these; a number that never changes belongs into a buffer."
            )
    _check_constants(model, graph)


def check_same_constants(model: nn.Module, pristine: nn.Module) -> None:
    """Checks that a checkpoint has changed no float buffer but those of norms: a store leaves them to the factory.

    Raises:
        ModelError: it has.
    """
    expected = dict(_constants(pristine))
    for name, buffer in _constants(model):
        if not torch.equal(buffer, expected[name]):
            raise ModelError(
                f"the checkpoint gives buffer `{name}` another value than the factory, and a store keeps no buffers but those of norms. "
                "Make the factory build the buffer with the trained value."
            )


def _computed_weight(model: nn.Module, name: str) -> str:
    """What to do where parameter `name` is one that a layer's weight is computed from, as in weight and spectral norm; "" where it is not."""
    layer = name.rpartition(".")[0].partition(".parametrizations")[0]
    module = model.get_submodule(layer)
    if parametrize.is_parametrized(module):
        return (
            f"The weight of `{layer}` is computed from this one by a parametrization: let the factory end with "
            "torch.nn.utils.parametrize.remove_parametrizations on it. "
        )
    if isinstance(getattr(module, "weight", None), torch.Tensor) and "weight" not in dict(module.named_parameters(recurse=False)):
        return f"The weight of `{layer}` is computed from this one before each forward: let the factory end with torch's function that removes that. "
    return ""


def _held_parameters(model: nn.Module, graph: ModelGraph) -> set[str]:
    """State-dict names of the parameters that a store holds."""
    held = set(free_parameters(model)) | {
        f"{layer.name}.weight" for layer in graph.layers if isinstance(model.get_submodule(layer.name), CODED_TYPES)
    }
    for name, module in model.named_modules():
        norm = isinstance(module, NORM_TYPES)
        for leaf in ("weight", "bias") if norm else ("bias",):
            parameter = getattr(module, leaf, None)
            if isinstance(parameter, nn.Parameter) and parameter.dim() == 1:
                held.add(f"{name}.{leaf}" if name else leaf)
    return held


def _constants(model: nn.Module) -> list[tuple[str, torch.Tensor]]:
    """Float buffers that belong to no norm."""
    modules = dict(model.named_modules())
    return [
        (name, buffer)
        for name, buffer in model.named_buffers()
        if buffer.is_floating_point() and not isinstance(modules[name.rpartition(".")[0]], NORM_TYPES)
    ]


def _check_constants(model: nn.Module, graph: ModelGraph) -> None:
    """One forward in training mode, on a copy, must leave float buffers outside norms as they are."""
    if not _constants(model):
        return
    trained = copy.deepcopy(model).train()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        trained(torch.rand(2, *graph.input_shape))
    for (name, before), (_, after) in zip(_constants(model), _constants(trained), strict=True):
        if not torch.equal(before, after):
            raise ModelError(
                f"training changes buffer `{name}`, and a store keeps no buffers but those of norms. Use BatchNorm, or make it a constant."
            )


def _check_statistics(module: nn.Module, name: str) -> None:
    if not module.track_running_stats:
        raise ModelError(
            f"norm `{name}` keeps no running statistics, so its answer depends on the batch. "
            "A stored task must answer alone: build the norm with track_running_stats=True."
        )


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
        _check_statistics(module, name)
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
