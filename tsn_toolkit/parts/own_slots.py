"""Which slots of a trained trunk a task takes for its own: those that it has moved furthest."""

from __future__ import annotations

import torch
from torch import nn

from tsn_toolkit.masks.top import keep_count, top_mask
from tsn_toolkit.parts.subnet_weight import SubnetWeight, wrapped


def choose_own_slots_(model: nn.Module) -> None:
    """Sets the masks of all `replace` layers, in place.

    Slots are ranked over all layers together by |own - inherited| relative to the root mean square of the layer's inherited weights; the total number
    is what the layers' densities add up to, so that a layer that has to change more may own more.
    """
    layers = [(wrapper, _relative_change(wrapper, latent)) for _, wrapper, latent in wrapped(model) if wrapper.rule == "replace"]
    if not layers:
        return
    total = sum(keep_count(wrapper.density, change.numel()) for wrapper, change in layers)
    mask = top_mask(torch.cat([change.flatten() for _, change in layers]), total)
    start = 0
    for wrapper, change in layers:
        wrapper.mask.copy_(mask[start : start + change.numel()].view(change.shape))
        start += change.numel()


def _relative_change(wrapper: SubnetWeight, latent: torch.Tensor) -> torch.Tensor:
    inherited = wrapper.inherited_q * wrapper.scale.view(-1, *([1] * (latent.dim() - 1)))
    return (latent.detach() - inherited).abs() / inherited.square().mean().sqrt().clamp_min(1e-12)
