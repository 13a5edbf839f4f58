"""A layer's slots as factors, since products with float masks cost a fraction of selections by bool ones, made anew only when a buffer has changed.

What follows from the frozen view alone outlives every refresh of the mask; positions, which only rounding to a codebook reads, are made on first use.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Generic, Literal, TypeVar

import torch

Rule = Literal["select", "replace"]
Made = TypeVar("Made")

CACHED_SLOTS = 1 << 16
"""Slots of a layer whose gradients of scores are worked out together."""


@dataclass(frozen=True)
class FrozenFactors:
    """What a layer inherits, all in the shape of its weight.

    Attributes:
        inherited: weights (out, ...), 0 where nothing is inherited.
        free: 1.0 where nothing is inherited, else 0.0.
        empty: nothing is inherited anywhere.
    """

    inherited: torch.Tensor
    free: torch.Tensor
    empty: bool


@dataclass(frozen=True)
class SlotFactors:
    """What a layer does with its slots under one mask, all in the shape of its weight.

    Attributes:
        read: inherited weights of the slots that read them, 0 elsewhere; contiguous.
        own: 1.0 or 0.0: slots whose value is the task's own.
        moving: 1.0 or 0.0: slots whose latent weight trains, the own and the refined.
        refined: bool: used inherited slots with a residual; None where the layer refines nothing.
    """

    read: torch.Tensor
    own: torch.Tensor
    moving: torch.Tensor
    refined: torch.Tensor | None

    @cached_property
    def own_index(self) -> torch.Tensor:
        """Flat positions of the own slots, int64."""
        return self.own.flatten().nonzero().squeeze(1)

    @cached_property
    def refined_index(self) -> torch.Tensor:
        """Flat positions of the refined slots, int64."""
        return torch.zeros(0, dtype=torch.int64) if self.refined is None else self.refined.flatten().nonzero().squeeze(1)


class Remembered(Generic[Made]):
    """A value that follows from tensors, made anew when one of them was replaced or written."""

    def __init__(self) -> None:
        """Nothing is made yet."""
        self._kept: tuple[tuple[torch.Tensor, ...], list[int], Made] | None = None

    def value(self, sources: tuple[torch.Tensor, ...], make: Callable[[], Made]) -> Made:
        """What `make` gives for `sources`, or gave when they were as they are."""
        versions = [source._version for source in sources]
        if self._kept is None or self._kept[1] != versions or any(a is not b for a, b in zip(self._kept[0], sources, strict=True)):
            self._kept = (sources, versions, make())
        return self._kept[2]


def frozen_factors(inherited_q: torch.Tensor, present: torch.Tensor, scale: torch.Tensor) -> FrozenFactors:
    """Factors of a frozen view: integers as float and bool, both (out, ...), scale (out,)."""
    inherited = inherited_q * scale.view(-1, *([1] * (inherited_q.dim() - 1)))
    return FrozenFactors(inherited=inherited.contiguous(), free=as_factor(~present), empty=not bool(present.any()))


def slot_factors(frozen: FrozenFactors, mask: torch.Tensor, refined: torch.Tensor | None, rule: Rule) -> SlotFactors:
    """Factors of a layer under one mask (bool) and its refined slots (bool, or None), both in the shape of the weight."""
    used = as_factor(mask)
    if rule == "replace":
        read, own = frozen.inherited * (1 - used), used
    elif frozen.empty:
        read, own = frozen.inherited, used
    else:
        read = frozen.inherited * used
        own = used.mul_(frozen.free)
    return SlotFactors(read=read, own=own, moving=own if refined is None else own + as_factor(refined), refined=refined)


def as_factor(mask: torch.Tensor) -> torch.Tensor:
    """1.0 where a bool tensor is True, else 0.0; torch widens bytes several times faster than truth values."""
    return mask.view(torch.uint8).float()


def score_gradient(frozen: FrozenFactors, rule: Rule, latent: torch.Tensor, gradient: torch.Tensor, score: torch.Tensor) -> torch.Tensor:
    """Gradient of the scores: the weight's gradient, times what the slot would add, times the score's sign.

    Some rows at a time, so that all factors of a part meet in a processor's cache.

    Args:
        frozen: what the layer inherits.
        rule: of the layer.
        latent, gradient, score: all (out, ...).
    """
    added = torch.empty_like(latent)
    rows = max(1, CACHED_SLOTS // max(1, latent[:1].numel()))
    for first in range(0, len(latent), rows):
        some = slice(first, first + rows)
        part = added[some]
        if frozen.empty:
            torch.mul(latent[some], gradient[some], out=part)
        elif rule == "replace":
            torch.sub(latent[some], frozen.inherited[some], out=part).mul_(gradient[some])
        else:
            torch.addcmul(frozen.inherited[some], frozen.free[some], latent[some], out=part).mul_(gradient[some])
        part.mul_(score[some].sign())
    return added
