"""Which slots a task uses or owns: each layer by its own density, or all layers under one budget.

- `select` layers use the slots with the largest scores; layers that change their parent's slots own those. Scores do not compare between layers: an
  optimizer that normalises its steps moves them all alike. So a budget is divided once, before the search, by connection sensitivity (SNIP, Lee,
  Ajanthan and Torr, ICLR 2019): |sum over batches of dL/dm| with all slots used, where m is the mask; the largest of all layers together say how many
  slots each layer gets, its scores then say which. No layer falls below `FLOOR` of its planned slots, so that none dies.
- `replace` layers own the slots of a trained trunk that the task has moved furthest. Under one budget by |own - inherited| relative to the root mean
  square of the layer's inherited weights, so that a layer that has to change more may own more; a layer that owns nothing is the trunk's, so there is
  no floor.

Layers whose granularity fixes its density (`n:m`, `unit`) take no part in a budget.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import nn

from tsn_toolkit.masks.granularity import parse_granularity, shared_masks
from tsn_toolkit.masks.schedule import cubic_density
from tsn_toolkit.masks.top import keep_count
from tsn_toolkit.parts.subnet_weight import SubnetWeight, wrapped

IDLE_SCORE = 0.01
"""Score at which an inherited slot starts that the parent does not use, relative to that of a slot in use of the same size."""

FLOOR = 0.1
"""Least fraction of its planned slots that a layer keeps under one budget."""

Batches = Iterable[tuple[torch.Tensor, torch.Tensor]]
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def divide_budget_(model: nn.Module, batches: Batches, loss: Loss) -> None:
    """Gives the `select` layers the densities that their sensitivities ask for, all together with as many slots as before, in place.

    Args:
        model: in training mode, all masks full; batch norms see the batches.
        batches: inputs and labels.
        loss: of logits and labels.
    """
    layers = [wrapper for wrapper, _ in _scored(model) if wrapper.rule == "select" and _divides(wrapper)]
    if not layers:
        return
    for wrapper in layers:
        wrapper.score.data.fill_(1)
        wrapper.learn_scores = True
    for x, y in batches:
        loss(model(x), y).backward()
    sensitivities = [torch.zeros_like(wrapper.score) if wrapper.score.grad is None else wrapper.score.grad.abs() for wrapper in layers]
    model.zero_grad()
    planned = [keep_count(wrapper.density, wrapper.score.numel()) for wrapper in layers]
    floors = [max(1, int(FLOOR * count)) for count in planned]
    masks = shared_masks(sensitivities, [parse_granularity(wrapper.granularity) for wrapper in layers], sum(planned), floors)
    for wrapper, mask in zip(layers, masks, strict=True):
        wrapper.density = int(mask.sum()) / mask.numel()


def start_scores_(model: nn.Module, start_density: float = 0.0) -> None:
    """Lets the scored layers learn their scores, which start at |latent weight|, and sets their first masks, in place.

    Slots that only other ancestors than the parent use stay outside the first masks, so that a task begins where its parent ended.
    """
    for wrapper, latent in _scored(model):
        size = latent.detach().abs()
        wrapper.score.data.copy_(torch.where(wrapper.idle_slots(), IDLE_SCORE * size, size))
        wrapper.learn_scores = True
    refresh_masks_(model, start_density, progress=0.0)


def update_scores_every_(model: nn.Module, every: int, step: int) -> None:
    """Says whether the scores of the scored layers get a gradient in a step (0-based), in place: in the last of every `every` steps."""
    for wrapper, _ in _scored(model):
        wrapper.score_due = (step + 1) % every == 0


def refresh_masks_(model: nn.Module, start_density: float = 0.0, progress: float = 1.0) -> None:
    """Sets the masks of the scored layers by their scores, in place, on the way from `start_density` (or more) to each layer's own density."""
    for wrapper, _ in _scored(model):
        start = max(min(start_density, 1 - wrapper.idle_share()), wrapper.density)
        wrapper.refresh_mask_(density=cubic_density(start, wrapper.density, progress))


def choose_own_slots_(model: nn.Module, *, shared: bool) -> None:
    """Sets the masks of the layers over a trained trunk by how far their slots have moved, in place; `shared`: under one budget."""
    layers = [(wrapper, _relative_change(wrapper, latent)) for _, wrapper, latent in wrapped(model) if not wrapper.scored]
    together = [(wrapper, change) for wrapper, change in layers if shared and _divides(wrapper)]
    for wrapper, change in layers:
        if not (shared and _divides(wrapper)):
            wrapper.refresh_mask_(change)
    if together:
        forms = [parse_granularity(wrapper.granularity) for wrapper, _ in together]
        total = sum(keep_count(wrapper.density, change.numel()) for wrapper, change in together)
        for (wrapper, _), mask in zip(together, shared_masks([change for _, change in together], forms, total), strict=True):
            wrapper.mask.copy_(mask)


def _divides(wrapper: SubnetWeight) -> bool:
    return parse_granularity(wrapper.granularity).density is None


def _scored(model: nn.Module) -> list[tuple[SubnetWeight, torch.Tensor]]:
    return [(wrapper, latent) for _, wrapper, latent in wrapped(model) if wrapper.scored]


def _relative_change(wrapper: SubnetWeight, latent: torch.Tensor) -> torch.Tensor:
    inherited = wrapper.inherited_q * wrapper.scale.view(-1, *([1] * (latent.dim() - 1)))
    return (latent.detach() - inherited).abs() / inherited.square().mean().sqrt().clamp_min(1e-12)
