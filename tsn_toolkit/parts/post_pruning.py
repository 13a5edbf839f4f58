"""Gradient-free pruning after learning: own slots that hardly do anything are given up, batch by batch, while the loss allows it.

As in TinySubNets (AAAI 2025), with three differences: only slots that the task owns go, so that mask, own bits and free bits change together; batches
are chosen by what they do instead of at random; and a batch is judged by paired losses instead of two accuracies. An own slot that goes is pruned
where nothing is inherited below it, and reads the inherited integer again where the frozen view is full.

A batch is the `share` of a layer's own slots (or blocks) that move its weights least: |own value - value without it|. Of all layers the one whose
batch takes away the smallest part of the layer's energy, sum of squares over the sum of all its weights' squares, comes next. The batch stays gone
if the loss against the network before the first batch (mean paired difference plus one standard error) is within the limit; else its mask is put
back to the bit and the layer is finished. Every layer keeps one own slot at least, so that widths and codebooks stay. Codes of the slots that are
left do not change.

Layers whose granularity fixes their density (`n:m`, `unit`) are left alone.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tsn_toolkit.masks.granularity import Granularity, parse_granularity, structured_mask
from tsn_toolkit.numerics.bits import packed_size_bytes
from tsn_toolkit.numerics.entropy import ideal_bits
from tsn_toolkit.numerics.paired import paired_difference
from tsn_toolkit.parts.step_record import LayerChange
from tsn_toolkit.parts.subnet_weight import SubnetWeight, wrapped

Losses = Callable[[], NDArray[np.float64]]
"""Losses of the same examples, each time by the network as it is."""


@torch.no_grad()
def post_prune_(model: nn.Module, losses: Losses, *, share: float, tolerance: float) -> tuple[LayerChange, ...]:
    """Gives up own slots, in place; only masks change.

    Args:
        model: wrapped, codebooks fitted, evaluation mode.
        losses: of validation examples.
        share: of a layer's own slots that go at once, in (0, 1).
        tolerance: largest rise of the mean loss, as a fraction of 1 + the loss at the start.

    Returns:
        One entry per layer: own slots given up, of how many.
    """
    layers = [_Layer(name, wrapper, latent) for name, wrapper, latent in wrapped(model)]
    reference = losses()
    limit = tolerance * (1 + float(reference.mean()))
    batches = {layer.name: batch for layer in layers if (batch := layer.next_batch(share)) is not None}
    by_name = {layer.name: layer for layer in layers}
    while batches:
        name = min(batches, key=lambda key: batches[key][1])
        layer, (mask, _) = by_name[name], batches.pop(name)
        before = layer.wrapper.mask.clone()
        layer.wrapper.mask.copy_(mask)
        if paired_difference(losses(), reference).upper > limit:
            layer.wrapper.mask.copy_(before)
        elif (batch := layer.next_batch(share)) is not None:
            batches[name] = batch
    return tuple(layer.change() for layer in layers)


def coded_bytes(model: nn.Module) -> int:
    """Bytes of the own codes, packed, and of the masks at their entropy given what is inherited, over all wrapped layers.

    The store's encoder sees more context than that; the size of the part that is committed is what counts.
    """
    bits = 0.0
    for _, wrapper, _ in wrapped(model):
        own = int(wrapper.own_slots().sum())
        bits += 8 * packed_size_bytes(own, wrapper.bit_width)
        below = wrapper.present.flatten().long() * 2 + wrapper.mask.flatten().long()
        bits += ideal_bits(torch.bincount(below, minlength=4).view(2, 2).numpy())
    return round(bits / 8)


class _Layer:
    """One wrapped layer and what it owned at the start."""

    def __init__(self, name: str, wrapper: SubnetWeight, latent: torch.Tensor):
        self.name, self.wrapper, self._latent = name, wrapper, latent
        self._owned = int(wrapper.own_slots().sum())
        self._form: Granularity = parse_granularity(wrapper.granularity)

    def next_batch(self, share: float) -> tuple[torch.Tensor, float] | None:
        """The mask without the next batch, and the part of the layer's energy that goes with it; None where the layer is finished."""
        own = self.wrapper.own_slots()
        count = int(own.sum())
        going = max(1, int(share * count))
        if self._form.density is not None or count - going < 1:
            return None
        weight = self.wrapper(self._latent).detach()
        without = torch.where(own & self.wrapper.present, self.wrapper.inherited_weight(), torch.zeros_like(weight))
        effect = torch.where(own, (weight - without).abs(), torch.zeros_like(weight))
        # Slots that are used but not own stay whatever comes; those that are out already come last.
        ranking = torch.where(own, effect, torch.where(self.wrapper.mask, torch.inf, -1.0))
        used = int(self.wrapper.mask.sum())
        mask = structured_mask(ranking, (used - going) / own.numel(), self._form) & self.wrapper.mask
        gone = own & ~mask
        if not bool(gone.any()) or bool(gone.sum() == count):
            return None
        energy = float(effect[gone].square().sum()) / max(float(weight.square().sum()), 1e-30)
        return mask, energy

    def change(self) -> LayerChange:
        """What the layer gave up."""
        if self._form.density is not None:
            return LayerChange(self.name, reason=f"granularity {self.wrapper.granularity} fixes the density")
        if not self._owned:
            return LayerChange(self.name, reason="the task owns no slot")
        return LayerChange(self.name, changed=self._owned - int(self.wrapper.own_slots().sum()), total=self._owned)
