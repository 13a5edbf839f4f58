"""The wrapper of layers with own codes: mask, straight-through quantizer and frozen view of one weight.

A layer's weight during learning is

    w = base + m * (value - base)

with two rules, chosen by what the task inherits:

- `select` (the frozen view has gaps): base = 0, value = the inherited weight where there is one, else the task's own. The mask says which slots the
  task USES; this is the score-learned subnetwork of WSN (Kang et al., ICML 2022), on which TinySubNets builds.
- `replace` (the frozen view is full, a trained trunk): base = the inherited weight, value = the task's own. The mask says which slots the task OWNS;
  all others are reused. So does a task that says which slots of its parent it changes: base = the parent's weight, 0 where it has none.

Inherited integers are buffers, so no optimizer, weight decay, momentum or averaging can move them. The gradient of the mask goes straight through to
|score|: dL/d|s| = dL/dw * (value - base). Once a codebook is set, own values are rounded to scale * codebook entry, straight through.

With `refine_bits`, `select` lets the gradient of used inherited slots drift their latent weights while the layer goes on to compute with the
inherited ones. `choose_refined_` gives the slots that drifted furthest a residual of their own: w = scale * (inherited q + residual entry). Only
slots with |q| <= max_code // 2 may be refined and residuals stay within the same, so that no sum leaves the code.

Deviation from WSN: the mask is refreshed when a strategy says so (every few steps), not at each forward pass; it is exact at each refresh.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from tsn_toolkit.contracts import LayerCodes, Refinement
from tsn_toolkit.masks.granularity import parse_granularity, structured_mask
from tsn_toolkit.masks.top import keep_count, top_mask
from tsn_toolkit.numerics.kmeans import assign_codes, fit_codebook
from tsn_toolkit.numerics.vectors import round_vector
from tsn_toolkit.parts.slot_factors import FrozenFactors, Remembered, Rule, SlotFactors, as_factor, frozen_factors, score_gradient, slot_factors
from tsn_toolkit.parts.wrapping import wrappers_of
from tsn_toolkit.vocabulary import SlotState, VectorPrecision

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
        refined: bool buffer, shape of the weight; used inherited slots with a residual.
        residuals: float buffer (2**refine_bits,) of integers; empty until `fit_codebook_`, and where nothing is refined.
        scored: the mask follows scores that are learned; else it is chosen once, by how far the slots have moved.
        preferred: bool buffer, shape of the weight; slots that the parent uses. Their ranking gets `bonus` times the root mean square of the scores.
    """

    def __init__(
        self,
        q: torch.Tensor,
        present: torch.Tensor,
        scale: torch.Tensor | None,
        *,
        rule: Rule,
        density: float,
        bit_width: int,
        max_code: int,
        granularity: str = "element",
        refine_bits: int = 0,
        scored: bool | None = None,
    ):
        super().__init__()
        self.rule: Rule = rule
        self.density, self.bit_width, self.max_code, self.granularity = density, bit_width, max_code, granularity
        self.refine_bits = refine_bits if rule == "select" else 0
        self.scored = rule == "select" if scored is None else scored
        self.bonus = 0.0
        self.learn_scores, self.score_due = False, True
        self._frozen: Remembered[FrozenFactors] = Remembered()
        self._slots: Remembered[SlotFactors] = Remembered()
        self._idle: Remembered[float] = Remembered()
        self.score = nn.Parameter(torch.zeros(q.shape))
        self.register_buffer("inherited_q", q.float())
        self.register_buffer("present", present.clone())
        self.register_buffer("scale", torch.zeros(q.shape[0]) if scale is None else scale.float().clone())
        self.register_buffer("mask", torch.ones(q.shape, dtype=torch.bool))
        self.register_buffer("refined", torch.zeros(q.shape, dtype=torch.bool))
        self.register_buffer("preferred", torch.zeros(q.shape, dtype=torch.bool))
        self.register_buffer("codebook", torch.empty(0))
        self.register_buffer("residuals", torch.empty(0))

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        """Own latent weight (out, ...) -> the weight the layer computes with."""
        with torch.no_grad():
            slots = self._factors()
            if self.codebook.numel():
                weight = slots.read.clone()
                self._round_(weight, latent, slots.own_index, self.codebook, refined=False)
            else:
                weight = slots.own * latent if self._inherited().empty else torch.addcmul(slots.read, slots.own, latent)
            if self.residuals.numel():
                self._round_(weight, latent, slots.refined_index, self.residuals, refined=True)
        computed: torch.Tensor = _StraightThrough.apply(latent, self.score if self.learn_scores and self.score_due else None, weight, self)
        return computed

    @torch.no_grad()
    def to_latent(self, gradient: torch.Tensor) -> torch.Tensor:
        """Gradient of the weight -> gradient of the latent weight."""
        return gradient * (as_factor(self.mask) if self.learn_scores and self.refine_bits else self._factors().moving)

    @torch.no_grad()
    def to_score(self, gradient: torch.Tensor, latent: torch.Tensor) -> torch.Tensor:
        """Gradient of the weight -> gradient of the score: times what the slot would add, times the score's sign."""
        return score_gradient(self._inherited(), self.rule, latent, gradient, self.score)

    def _inherited(self) -> FrozenFactors:
        view = (self.inherited_q, self.present, self.scale)
        return self._frozen.value(view, lambda: frozen_factors(*view))

    def _factors(self) -> SlotFactors:
        frozen, refined = self._inherited(), self.refined if self.refine_bits else None
        sources = (self.mask, self.refined, frozen.inherited)
        return self._slots.value(sources, lambda: slot_factors(frozen, self.mask, refined, self.rule))

    def right_inverse(self, weight: torch.Tensor) -> torch.Tensor:
        """The latent weight starts as the weight that the layer has."""
        return weight

    def ranking(self) -> torch.Tensor:
        """By what the mask is chosen: |score|, raised at preferred slots, float, shape of the weight."""
        size = self.score.detach().abs()
        if self.bonus:
            size = size + self.bonus * size.square().mean().sqrt() * self.preferred
        return size

    def refresh_mask_(self, ranking: torch.Tensor | None = None, density: float | None = None) -> None:
        """Sets the mask to the `density` fraction (or another) of slots with the largest ranking (`ranking()` or another, shape of the weight)."""
        ranking = self.ranking() if ranking is None else ranking
        density = self.density if density is None else density
        self.mask.copy_(structured_mask(ranking, density, parse_granularity(self.granularity)))

    @torch.no_grad()
    def choose_refined_(self, latent: torch.Tensor, share: float) -> None:
        """Refines the `share` of the used inherited slots that drifted furthest; the others give up what they drifted, in place."""
        inherited = self.inherited_q * self._per_channel(self.scale)
        drift = (latent - inherited).abs()
        used = self.mask & self.present
        able = used & (self.inherited_q.abs() <= self.max_code // 2)
        count = min(keep_count(share, int(used.sum())), int(able.sum()))
        self.refined.copy_(top_mask(torch.where(able, drift, -torch.ones_like(drift)), count))
        latent.copy_(torch.where(self.present & ~self.refined, inherited, latent))

    def fix_scale_(self, latent: torch.Tensor, precision: VectorPrecision = "half") -> None:
        """Gives every channel that reads no inherited value a scale from its largest own weight; all are rounded to what the store can hold."""
        rows = (latent.detach() * self.mask).flatten(1).abs().amax(1)
        rows = torch.where(rows > 0, rows, latent.detach().flatten(1).abs().amax(1)).clamp_min(1e-8)
        fresh = rows * (SCALE_HEADROOM / self.max_code)
        scale = torch.where((self.scale > 0) & self.inherited_slots().flatten(1).any(1), self.scale, fresh)
        self.scale.copy_(torch.from_numpy(round_vector(scale.cpu().numpy(), precision)))

    def fit_codebook_(self, latent: torch.Tensor) -> None:
        """Fits the codebook to the own weights alone, by exact one-dimensional k-means, and that of residuals to them.

        A layer without own slots takes no bits.
        """
        values = self.own_values(latent)
        self.bit_width = self.bit_width if values.size else 0
        codebook = fit_codebook(values, self.bit_width, self.max_code)
        self.codebook = torch.from_numpy(codebook.astype(np.float32)).to(latent.device)
        if self.refined.any():
            residuals = fit_codebook(self._residual_values(latent), self.refine_bits, self.max_code // 2)
            self.residuals = torch.from_numpy(residuals.astype(np.float32)).to(latent.device)

    def finish(self, latent: torch.Tensor) -> LayerCodes:
        """The layer as integers, in the shape of the (small) weight."""
        own = self.own_slots().cpu().numpy()
        states = np.full(own.shape, SlotState.PRUNED, np.uint8)
        present, mask = self.present.cpu().numpy(), self.mask.cpu().numpy()
        states[present if self.rule == "replace" else present & mask] = SlotState.REUSE
        states[own] = SlotState.OWN
        states[self.refined.cpu().numpy()] = SlotState.REFINE
        codebook = self.codebook.cpu().numpy().astype(np.int8)
        codes = assign_codes(self.own_values(latent), codebook) if codebook.size else np.zeros(0, np.uint8)
        return LayerCodes(
            states=states,
            codes=codes,
            codebook=codebook,
            bit_width=self.bit_width,
            scale=self.scale.cpu().numpy(),
            granularity=self.granularity,
            refinement=self._refinement(latent),
        )

    def own_slots(self) -> torch.Tensor:
        """Bool, shape of the weight: slots whose value is the task's own code."""
        return self.mask if self.rule == "replace" else self.mask & ~self.present

    def inherited_slots(self) -> torch.Tensor:
        """Bool, shape of the weight: slots whose value is, or begins with, an inherited integer."""
        return self.present & (~self.mask if self.rule == "replace" else self.mask)

    def inherited_weight(self) -> torch.Tensor:
        """The inherited integers times their scales, shape of the weight; 0 where nothing is inherited."""
        return self._inherited().inherited

    def idle_slots(self) -> torch.Tensor:
        """Bool, shape of the weight: inherited slots that the parent does not use."""
        return self.present & ~self.preferred

    def idle_share(self) -> float:
        """The fraction of the slots that are idle."""
        return self._idle.value((self.present, self.preferred), lambda: float(self.idle_slots().float().mean()))

    def own_values(self, latent: torch.Tensor) -> np.ndarray:
        """Own weights in units of q, C order, float64 (n_own,)."""
        q = (latent.detach() / self._per_channel(self.scale)).clamp(-self.max_code, self.max_code)
        return q[self.own_slots()].cpu().numpy().astype(np.float64)

    def _residual_values(self, latent: torch.Tensor) -> np.ndarray:
        """What refined slots add, in units of q, C order, float64 (n_refined,)."""
        residual = latent.detach() / self._per_channel(self.scale) - self.inherited_q
        return residual[self.refined].cpu().numpy().astype(np.float64)

    def _refinement(self, latent: torch.Tensor) -> Refinement | None:
        if not self.refined.any():
            return None
        codebook = self.residuals.cpu().numpy().astype(np.int8)
        return Refinement(codes=assign_codes(self._residual_values(latent), codebook), codebook=codebook, bit_width=self.refine_bits)

    def _round_(self, weight: torch.Tensor, latent: torch.Tensor, index: torch.Tensor, codebook: torch.Tensor, *, refined: bool) -> None:
        """Writes scale * (inherited q +) nearest codebook entry at flat positions of `weight` (contiguous), in place; a tie takes the lower."""
        scale = self.scale[index // max(1, self.mask[:1].numel())]
        q = latent.flatten()[index] / scale
        middle = (codebook[1:] + codebook[:-1]) / 2
        if refined:
            inherited = self.inherited_q.flatten()[index]
            q = inherited + codebook[torch.bucketize(q - inherited, middle)]
        else:
            q = codebook[torch.bucketize(q, middle)]
        weight.view(-1)[index] = q * scale

    def _per_channel(self, vector: torch.Tensor) -> torch.Tensor:
        return vector.view(-1, *([1] * (self.inherited_q.dim() - 1)))


class _StraightThrough(torch.autograd.Function):
    """Passes `weight` on; the wrapper says what of its gradient the latent weight and the score get."""

    @staticmethod
    def forward(ctx: Any, latent: torch.Tensor, score: torch.Tensor | None, weight: torch.Tensor, wrapper: SubnetWeight) -> torch.Tensor:
        ctx.save_for_backward(latent)
        ctx.wrapper, ctx.scored = wrapper, score is not None
        return weight.view_as(weight)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (latent,) = ctx.saved_tensors
        return ctx.wrapper.to_latent(gradient), ctx.wrapper.to_score(gradient, latent) if ctx.scored else None, None, None


def wrapped(model: nn.Module) -> Iterator[tuple[str, SubnetWeight, torch.Tensor]]:
    """Every layer of the model with own codes: (path, wrapper, latent weight)."""
    return wrappers_of(model, SubnetWeight)
