"""The one wrapper of learning: mask, straight-through quantizer and frozen view of one weight.

A layer's weight during learning is

    w = base + m * (value - base)

with two rules, chosen by what the task inherits:

- `select` (the frozen view has gaps): base = 0, value = the inherited weight where there is one, else the task's own. The mask says which slots the
  task USES; this is the score-learned subnetwork of WSN (Kang et al., ICML 2022), on which TinySubNets builds.
- `replace` (the frozen view is full, a trained trunk): base = the inherited weight, value = the task's own. The mask says which slots the task OWNS;
  all others are reused.

Inherited integers are buffers, so no optimizer, weight decay, momentum or averaging can move them. The gradient of the mask goes straight through to
|score|: dL/d|s| = dL/dw * (value - base). Once a codebook is set, own values are rounded to scale * codebook entry, straight through.

Deviation from WSN: the mask is refreshed when `refresh_mask_` is called (every few steps), not at each forward pass; it is exact at each refresh.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch
from torch import nn
from torch.nn.utils import parametrize

from tsn_toolkit.contracts import LayerCodes
from tsn_toolkit.masks.top import keep_count, top_mask
from tsn_toolkit.numerics.half import round_half
from tsn_toolkit.numerics.kmeans import assign_codes, fit_codebook
from tsn_toolkit.vocabulary import SlotState

Rule = Literal["select", "replace"]

SCALE_HEADROOM = 1.5
"""A fresh channel's largest weight maps to max_code / SCALE_HEADROOM, so that later training and later readers have room above it."""


class SubnetWeight(nn.Module):
    """Parametrization of one weight of shape (out, ...).

    Attributes:
        score: float parameter, shape of the weight.
        mask: bool buffer, shape of the weight.
        inherited_q: float buffer of integers, 0 where nothing is inherited.
        present: bool buffer, where something is inherited.
        scale: float buffer (out,), 0 where not yet fixed.
        codebook: float buffer (2**bit_width,) of integers; empty until `fit_codebook_`.
    """

    def __init__(
        self, q: torch.Tensor, present: torch.Tensor, scale: torch.Tensor | None, *, rule: Rule, density: float, bit_width: int, max_code: int
    ):
        super().__init__()
        self.rule: Rule = rule
        self.density, self.bit_width, self.max_code = density, bit_width, max_code
        self.learn_scores = False
        self.score = nn.Parameter(torch.zeros(q.shape))
        self.register_buffer("inherited_q", q.float())
        self.register_buffer("present", present.clone())
        self.register_buffer("scale", torch.zeros(q.shape[0]) if scale is None else scale.float().clone())
        self.register_buffer("mask", torch.ones(q.shape, dtype=torch.bool))
        self.register_buffer("codebook", torch.empty(0))

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        """Own latent weight (out, ...) -> the weight the layer computes with."""
        own = self._quantize(latent) if self.codebook.numel() else latent
        inherited = self.inherited_q * self._per_channel(self.scale)
        if self.rule == "replace":
            base, value = inherited, own
        else:
            base, value = torch.zeros_like(own), torch.where(self.present, inherited, own)
        mask = self.mask.to(own.dtype)
        if self.learn_scores:
            size = self.score.abs()
            mask = mask + size - size.detach()
        return base + mask * (value - base)

    def right_inverse(self, weight: torch.Tensor) -> torch.Tensor:
        """The latent weight starts as the weight that the layer has."""
        return weight

    def refresh_mask_(self, ranking: torch.Tensor | None = None) -> None:
        """Sets the mask to the `density` fraction of slots with the largest |score| (or `ranking`, shape of the weight)."""
        ranking = self.score.abs() if ranking is None else ranking
        self.mask.copy_(top_mask(ranking, keep_count(self.density, ranking.numel())))

    def fix_scale_(self, latent: torch.Tensor) -> None:
        """Gives every channel without an inherited scale one from its largest own weight, rounded to what the store can hold."""
        rows = (latent.detach() * self.mask).flatten(1).abs().amax(1)
        rows = torch.where(rows > 0, rows, latent.detach().flatten(1).abs().amax(1)).clamp_min(1e-8)
        fresh = rows * (SCALE_HEADROOM / self.max_code)
        scale = torch.where(self.scale > 0, self.scale, fresh)
        self.scale.copy_(torch.from_numpy(round_half(scale.cpu().numpy())))

    def fit_codebook_(self, latent: torch.Tensor) -> None:
        """Fits the codebook to the own weights alone, by exact one-dimensional k-means."""
        values = self._own_values(latent)
        codebook = fit_codebook(values, self.bit_width, self.max_code) if values.size else np.zeros(2**self.bit_width, np.int8)
        self.codebook = torch.from_numpy(codebook.astype(np.float32)).to(latent.device)

    def finish(self, latent: torch.Tensor) -> LayerCodes:
        """The layer as integers, in the shape of the (small) weight."""
        own = self._own_slots().cpu().numpy()
        states = np.full(own.shape, SlotState.PRUNED, np.uint8)
        present, mask = self.present.cpu().numpy(), self.mask.cpu().numpy()
        states[present if self.rule == "replace" else present & mask] = SlotState.REUSE
        states[own] = SlotState.OWN
        codebook = self.codebook.cpu().numpy().astype(np.int8)
        codes = assign_codes(self._own_values(latent), codebook)
        return LayerCodes(states=states, codes=codes, codebook=codebook, bit_width=self.bit_width, scale=self.scale.cpu().numpy())

    def _own_slots(self) -> torch.Tensor:
        return self.mask if self.rule == "replace" else self.mask & ~self.present

    def _own_values(self, latent: torch.Tensor) -> np.ndarray:
        """Own weights in units of q, C order, float64 (n_own,)."""
        q = (latent.detach() / self._per_channel(self.scale)).clamp(-self.max_code, self.max_code)
        return q[self._own_slots()].cpu().numpy().astype(np.float64)

    def _quantize(self, latent: torch.Tensor) -> torch.Tensor:
        scale = self._per_channel(self.scale)
        middle = (self.codebook[1:] + self.codebook[:-1]) / 2
        q = self.codebook[torch.bucketize((latent / scale).detach(), middle)] * scale
        return q + (latent - latent.detach())  # exactly q; latent + (q - latent) would be off by a rounding

    def _per_channel(self, vector: torch.Tensor) -> torch.Tensor:
        return vector.view(-1, *([1] * (self.inherited_q.dim() - 1)))


def attach_(module: nn.Module, wrapper: SubnetWeight) -> None:
    """Puts the wrapper on `module.weight`, in place; the module's present weight becomes the latent weight."""
    parametrize.register_parametrization(module, "weight", wrapper)


def wrapped(model: nn.Module) -> Iterator[tuple[str, SubnetWeight, torch.Tensor]]:
    """Every wrapped layer of the model: (path, wrapper, latent weight)."""
    for name, module in model.named_modules():
        if parametrize.is_parametrized(module, "weight"):
            chain = module.parametrizations["weight"]
            yield name, chain[0], chain.original


def detach_(model: nn.Module) -> None:
    """Removes all wrappers, in place, leaving the weights that the layers computed with."""
    for module in list(model.modules()):
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight")
