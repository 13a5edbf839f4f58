"""Dynamic gradient masking (DGM), the third part of SparCL (Wang et al., NeurIPS 2022, arXiv 2209.09476).

On every `refresh_every`-th step the largest |gradients| of each layer among its active slots are found, as many as `keep` of ALL slots of the layer;
the others are set to 0, and the pattern is kept. On the steps between, gradients outside the pattern are set to 0 without looking at them.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from tsn_toolkit.masks.top import keep_count, top_mask


class GradientMask:
    """Which gradients of some weights are used.

    Attributes:
        patterns: name -> bool, shape of the weight; empty before the first step.
        densities: name -> fraction of the gradients that is used.
    """

    def __init__(self, weights: Mapping[str, torch.Tensor], *, keep: float, refresh_every: int, slots: Mapping[str, int] | None = None):
        """Nothing is looked at yet.

        Args:
            weights: name -> parameter with a gradient at every step.
            keep: fraction of all slots of a layer whose gradient is used, in (0, 1].
            refresh_every: steps between new patterns.
            slots: name -> number of slots that the fraction is of, where some of a layer's slots have been removed; left out: those of the weight.
        """
        self._slots = {name: weight.numel() for name, weight in weights.items()} | dict(slots or {})
        self._weights, self._keep, self._refresh_every = dict(weights), keep, refresh_every
        self.patterns: dict[str, torch.Tensor] = {}
        self.densities: dict[str, float] = {}

    def apply_(self, step: int, active: Mapping[str, torch.Tensor]) -> None:
        """Sets unused gradients to 0, in place.

        Args:
            step: 0-based.
            active: name -> bool, shape of the weight; layers left out are dense.
        """
        for name, weight in self._weights.items():
            if weight.grad is None:
                continue
            if self.refreshes(step) or name not in self.patterns:
                self.patterns[name] = self._pattern(name, weight.grad, active.get(name))
                self.densities[name] = int(self.patterns[name].sum()) / weight.numel()
            weight.grad.mul_(self.patterns[name])

    def keep_within_(self, active: Mapping[str, torch.Tensor]) -> int:
        """Takes slots that are masked from now on out of the patterns, in place.

        Args:
            active: as for `apply_`.

        Returns:
            Operations: a product per weight of the patterns that there are.
        """
        affected = self.patterns.keys() & active.keys()
        for name in affected:
            self.patterns[name] = self.patterns[name] & active[name]
            self.densities[name] = int(self.patterns[name].sum()) / active[name].numel()
        return sum(active[name].numel() for name in affected)

    def refreshes(self, step: int) -> bool:
        """Whether a step finds new patterns."""
        return step % self._refresh_every == 0

    def computed(self, step: int) -> dict[str, float]:
        """Name -> fraction of the gradients that a step computes; empty where it finds new patterns, for which all of active weights are needed."""
        return {} if self.refreshes(step) else self.densities

    def operations(self, step: int) -> int:
        """Operations of `apply_`, per weight: the pattern applied; where it is new, an absolute value and a selection."""
        return (3 if self.refreshes(step) else 1) * sum(weight.numel() for weight in self._weights.values())

    def _pattern(self, name: str, gradient: torch.Tensor, active: torch.Tensor | None) -> torch.Tensor:
        size = gradient.abs()
        able = size.numel() if active is None else int(active.sum())
        ranked = size if active is None else torch.where(active, size, -torch.inf)
        return top_mask(ranked, min(keep_count(self._keep, self._slots[name]), able))
