"""Task-aware dynamic masking (TDM), the first part of SparCL (Wang et al., NeurIPS 2022, arXiv 2209.09476).

    importance(w) = |w| + gradient_weight * |dL/dw|,   L the loss on current and replayed examples together

Per layer and update: the active slots with the least importance are pruned until `prune_to` of all slots are zero, then zero slots are drawn at
random until only `grow_to` are; a slot that grows starts at 0. Early in a task the mask is a little wider than asked for, in the middle it is pruned
a little further and grown back, late it is only pruned:

    first tenth      prune to sparsity,            grow to sparsity - swing
    middle           prune to sparsity + swing,    grow to sparsity
    last tenth       prune to sparsity

The paper has two weights, for gradients of current and of replayed examples, and finds equal ones as good; here they are one. Growth by gradient is
not offered: the gradient of a slot that does not compute is not there when the mask is applied to the weight. The first layer and the head stay
dense.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from tsn_toolkit.masks.top import top_mask

EARLY, LATE = 0.1, 0.9
"""Shares of a task's epochs at which the schedule changes."""


def targets(sparsity: float, swing: float, progress: float) -> tuple[float, float]:
    """(prune_to, grow_to) after a share of the task's epochs.

    >>> [targets(0.75, 0.01, share) for share in (0.0, 0.5, 0.9)]
    [(0.75, 0.74), (0.76, 0.75), (0.75, 0.75)]
    """
    if progress < EARLY:
        return sparsity, round(sparsity - swing, 12)
    if progress < LATE:
        return round(sparsity + swing, 12), sparsity
    return sparsity, sparsity


class DynamicMask:
    """The masks of some weights, which are kept at 0 where they are masked.

    Attributes:
        masks: name -> bool, shape of the weight, True = active.
        densities: name -> fraction of the slots that is active.
    """

    def __init__(self, weights: Mapping[str, torch.Tensor], *, sparsity: float, swing: float, gradient_weight: float, generator: torch.Generator):
        """Begins with what is not 0, at most the largest weights that the sparsity allows, and puts the rest at 0, in place.

        Args:
            weights: name -> parameter; masked in place for as long as this object is used.
            sparsity: fraction of the slots that are zero, 0..1.
            swing: how far the schedule goes to either side.
            gradient_weight: of the gradient's size in the importance.
            generator: of growth, on the CPU.
        """
        self._weights, self._sparsity, self._swing = dict(weights), sparsity, swing
        self._gradient_weight, self._generator = gradient_weight, generator
        self.masks: dict[str, torch.Tensor] = {}
        self.densities: dict[str, float] = {}
        for name, weight in self._weights.items():
            keep = min(_active(weight, sparsity), int((weight.detach() != 0).sum()))
            self._set(name, top_mask(weight.detach().abs(), keep))
        self.apply_()

    @torch.no_grad()
    def update_(self, progress: float) -> None:
        """Prunes and grows every layer, in place; gradients are those of the last step.

        Args:
            progress: share of the task's epochs that is done.
        """
        prune_to, grow_to = targets(self._sparsity, self._swing, progress)
        for name, weight in self._weights.items():
            ranking = importance(weight, weight.grad, self._gradient_weight)
            pruned = prune(self.masks[name], ranking, _active(weight, prune_to))
            weight.mul_(pruned)  # before growth, so that a slot that goes and comes back starts at 0
            self._set(name, grow(pruned, _active(weight, grow_to), self._generator))

    @torch.no_grad()
    def apply_(self) -> None:
        """Puts masked weights at 0, in place."""
        for name, weight in self._weights.items():
            weight.mul_(self.masks[name])

    @torch.no_grad()
    def apply_to_gradients_(self) -> None:
        """Puts gradients of masked weights at 0, in place, so that no optimizer's state knows of them."""
        for name, weight in self._weights.items():
            if weight.grad is not None:
                weight.grad.mul_(self.masks[name])

    def update_operations(self) -> int:
        """Operations of `update_`, per weight: two absolute values, a product and a sum (importance); two selections; a draw; the mask applied."""
        return 8 * self.apply_operations()

    def apply_operations(self) -> int:
        """Operations of `apply_`, and of `apply_to_gradients_`: a product per weight."""
        return sum(weight.numel() for weight in self._weights.values())

    def _set(self, name: str, mask: torch.Tensor) -> None:
        self.masks[name] = mask
        self.densities[name] = int(mask.sum()) / mask.numel()


def importance(weight: torch.Tensor, gradient: torch.Tensor | None, gradient_weight: float) -> torch.Tensor:
    """|w| + gradient_weight * |g|, shape of the weight; |w| alone before the first gradient."""
    size = weight.detach().abs()
    return size if gradient is None else size + gradient_weight * gradient.abs()


def prune(mask: torch.Tensor, ranking: torch.Tensor, keep: int) -> torch.Tensor:
    """The `keep` active slots with the largest ranking, all where fewer are active; bool, shape of the mask."""
    return top_mask(torch.where(mask, ranking, -torch.inf), min(keep, int(mask.sum())))


def grow(mask: torch.Tensor, active: int, generator: torch.Generator) -> torch.Tensor:
    """The mask with masked slots drawn uniformly until `active` are; unchanged where there are as many."""
    missing = active - int(mask.sum())
    if missing <= 0:
        return mask
    draw = torch.rand(mask.shape, generator=generator).to(mask.device)
    return mask | top_mask(torch.where(mask, -1.0, draw), missing)


def _active(weight: torch.Tensor, sparsity: float) -> int:
    return max(1, round((1 - sparsity) * weight.numel()))
