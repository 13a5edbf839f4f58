"""Free parameters of a task: which it inherits and leaves as they are, and its own as the store can hold them.

A parameter is **held** where the trunk or an ancestor owns all entries that the task keeps, unless the recipe lets tasks own theirs: no gradient
reaches it, and the store keeps nothing of it. Over a fresh trunk a task may keep units that its ancestors removed; their entries have no owner, so
the task trains the whole parameter and owns it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tsn_toolkit.contracts import FrozenParameter
from tsn_toolkit.free_parameters import free_parameters
from tsn_toolkit.numerics.vector_rows import round_rows
from tsn_toolkit.parts.slots import scatter_vector
from tsn_toolkit.trainer.context import TaskContext
from tsn_toolkit.vocabulary import VectorPrecision

Values = dict[str, NDArray[np.float32]]


def hold_inherited_(model: nn.Module, slots: Mapping[str, torch.Tensor], context: TaskContext) -> None:
    """Stops the gradients of all that is held, in place.

    Args:
        model: a shrunk module where learning starts.
        slots: of the module.
        context: the task.
    """
    if context.own_free_parameters:
        return
    for name, parameter in free_parameters(model).items():
        if _all_present(context.inherited_free, name, slots):
            parameter.requires_grad_(False)


@contextmanager
def all_inherited_held(model: nn.Module, context: TaskContext) -> Iterator[None]:
    """Inside, no gradient reaches a parameter of which anybody owns an entry: which of them are the task's own is known when its units are."""
    inherited = context.inherited_free
    held = [
        parameter
        for name, parameter in free_parameters(model).items()
        if parameter.requires_grad and not context.own_free_parameters and name in inherited and inherited[name].present.any()
    ]
    for parameter in held:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in held:
            parameter.requires_grad_(True)


def freeze_own_(model: nn.Module, slots: Mapping[str, torch.Tensor], context: TaskContext) -> Values:
    """All that is not held, rounded to what the store can hold, written back in place and returned in small shapes.

    A parameter that was not trained stays as it is inherited, if it is: rounding it again, perhaps more coarsely, would make it another.

    Args:
        model: a shrunk module that has learned.
        slots: of the module.
        context: the task.
    """
    own = {name: p for name, p in free_parameters(model).items() if p.requires_grad or not _all_present(context.inherited_free, name, slots)}
    return round_parameters_(own, context.precision.vectors)


def round_parameters_(parameters: Mapping[str, nn.Parameter], precision: VectorPrecision) -> Values:
    """Parameters rounded to what the store can hold, written back in place and returned."""
    values = {}
    for name, parameter in parameters.items():
        values[name] = round_rows(parameter.detach().float().cpu().numpy(), precision)
        parameter.data.copy_(torch.from_numpy(values[name]))
    return values


def scatter_free(values: Mapping[str, NDArray[np.float32]], slots: Mapping[str, torch.Tensor], full: Mapping[str, tuple[int, ...]]) -> Values:
    """Small values at full shapes, 0 where units are gone.

    Args:
        values: in small shapes.
        slots: of the shrunk module.
        full: state-dict name -> shape before removal.
    """
    return {
        name: scatter_vector(small.reshape(-1), slots[name].reshape(-1), math.prod(full[name])).reshape(full[name]) for name, small in values.items()
    }


def _all_present(inherited: Mapping[str, FrozenParameter], name: str, slots: Mapping[str, torch.Tensor]) -> bool:
    """Whether somebody owns every entry of a parameter that is left."""
    return name in inherited and bool(inherited[name].present.reshape(-1)[slots[name].numpy().reshape(-1)].all())
