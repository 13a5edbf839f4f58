"""Free parameters: those that are no layer's, norm's or bias's. Class tokens, learned positions, factors of layer scale, tables of `nn.Embedding`.

A free parameter is declared by a module of the user's own, directly or in a `ParameterList` or `ParameterDict`, or it is the weight of an embedding.
Everything else that a layer of torch declares belongs to that layer and has a place of its own in a store, or none.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

_PLAIN_MODULES = (nn.Module, nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)
"""Classes of torch that declare no parameter themselves: what stands on a module of theirs is the user's."""


def free_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """State-dict name -> free parameter, in the module's order; tied ones under their first name.

    One-dimensional parameters called `bias` are biases, wherever they stand.
    """
    modules = dict(model.named_modules())
    found = {}
    for name, parameter in model.named_parameters():
        path, _, leaf = name.rpartition(".")
        of_a_weight = "parametrizations" in path.split(".")  # a weight is computed from it, and is held in its place
        if not of_a_weight and bias_of(modules[path]) is not parameter and _is_free(modules[path], leaf):
            found[name] = parameter
    return found


def bias_of(module: nn.Module) -> nn.Parameter | None:
    """The bias that a module declares: a one-dimensional parameter of that name. Others of that name, as of some norms of users' own, are free."""
    bias = dict(module.named_parameters(recurse=False)).get("bias")
    return bias if bias is not None and bias.dim() == 1 else None


def write_free_parameters_(model: nn.Module, values: Mapping[str, NDArray[np.float32]]) -> None:
    """Writes values, each in the shape of its parameter, in place."""
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, value in values.items():
            parameters[name].copy_(torch.from_numpy(np.ascontiguousarray(value)).view_as(parameters[name]))


def _is_free(module: nn.Module, leaf: str) -> bool:
    if isinstance(module, nn.Embedding):
        return leaf == "weight"
    nearest = next(kind for kind in type(module).__mro__ if kind.__module__.partition(".")[0] == "torch")
    return nearest in _PLAIN_MODULES
