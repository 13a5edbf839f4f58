"""Wrappers of a layer's weight, as parametrizations: put on, found, left out of a copy, and taken off again."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import TypeVar

import torch
from torch import nn
from torch.nn.utils import parametrize

Wrapper = TypeVar("Wrapper", bound=nn.Module)


def attach_(module: nn.Module, wrapper: nn.Module) -> None:
    """Puts a wrapper on `module.weight`, in place; the wrapper makes the latent weight from the module's present weight."""
    parametrize.register_parametrization(module, "weight", wrapper)


def wrappers_of(model: nn.Module, kind: type[Wrapper]) -> Iterator[tuple[str, Wrapper, torch.Tensor]]:
    """Every layer of the model with a wrapper of one kind: (path, wrapper, latent tensor)."""
    for name, module in model.named_modules():
        if parametrize.is_parametrized(module, "weight"):
            chain = module.parametrizations["weight"]
            if isinstance(chain[0], kind):
                yield name, chain[0], chain.original


def plain_copy(model: nn.Module) -> nn.Module:
    """A copy without wrappers that holds the weights the layers compute with; the model stays wrapped.

    Detaching a deep copy would not do: it takes the property `weight` from a class that torch gives to module and copy alike.
    """
    clone = copy.deepcopy(model)
    for module in list(clone.modules()):
        if parametrize.is_parametrized(module, "weight"):
            weight = module.weight.detach().clone()
            module.__class__ = type(module).__bases__[0]
            del module.parametrizations
            module.weight = nn.Parameter(weight)
    return clone


def detach_(model: nn.Module) -> None:
    """Removes all wrappers, in place, leaving the weights that the layers computed with."""
    for module in list(model.modules()):
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight")
