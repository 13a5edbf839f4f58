"""Masks whose slots stand or fall together: `element`, `block(k)`, `n:m` and `unit`, for every layer and for one budget over several layers.

A weight of shape (out, ...) is read as rows of its flattened input weights. A granule is what a mask keeps or drops as one:

- `element`: one slot.
- `block(k)`: k consecutive slots of a row; the last block of a row may be shorter. Its score is the MEAN over its slots, the score per slot kept, so
  that a short block competes with a long one at what it costs.
- `n:m`: no granules; of every m consecutive slots of a row the n with the largest scores stay (all slots of a shorter last group up to n).
- `unit`: the whole weight; units are chosen by group, so nothing is dropped inside those that stay.

Ties go to the lower flat index, everywhere.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch.nn import functional

from tsn_toolkit.masks.top import keep_count, top_mask


@dataclass(frozen=True)
class Granularity:
    """A mask granularity, read.

    Attributes:
        block: slots of one granule of `element` (1) and `block(k)` (k); 0 for the others.
        keep, group: n and m of `n:m`; 0, 0 for the others.
    """

    block: int = 0
    keep: int = 0
    group: int = 0

    @property
    def density(self) -> float | None:
        """The density that the granularity itself fixes; None where it is free."""
        if self.block:
            return None
        return self.keep / self.group if self.group else 1.0


def parse_granularity(text: str) -> Granularity:
    """Reads `element`, `block(k)`, `n:m` or `unit`.

    Raises:
        ValueError: `text` is none of these, or n exceeds m.

    >>> parse_granularity("block(16)").block, parse_granularity("2:4").density, parse_granularity("unit").density
    (16, 0.5, 1.0)
    """
    if text in ("element", "unit"):
        return Granularity(block=1 if text == "element" else 0)
    if block := re.fullmatch(r"block\((\d+)\)", text):
        return Granularity(block=int(block[1]))
    choice = re.fullmatch(r"(\d+):(\d+)", text)
    if choice is None or not 1 <= int(choice[1]) <= int(choice[2]):
        raise ValueError(f"a granularity is element, unit, block(k) or n:m with n at most m, got {text!r}")
    return Granularity(keep=int(choice[1]), group=int(choice[2]))


def structured_mask(scores: torch.Tensor, density: float, granularity: Granularity) -> torch.Tensor:
    """Marks the best-scored granules.

    Args:
        scores: float (out, ...), finite.
        density: fraction of the slots to keep, reached within half a granule; `n:m` and `unit` fix it themselves.
        granularity: of the mask.

    Returns:
        bool, shape of `scores`.
    """
    if granularity.block == 1:
        return top_mask(scores, keep_count(density, scores.numel()))
    if granularity.block:
        return shared_masks([scores], [granularity], keep_count(density, scores.numel()))[0]
    if granularity.group:
        return _best_of_groups(scores, granularity.keep, granularity.group)
    return torch.ones_like(scores, dtype=torch.bool)


def shared_masks(
    scores: Sequence[torch.Tensor], granularities: Sequence[Granularity], budget: int, floors: Sequence[int] | None = None
) -> list[torch.Tensor]:
    """Masks of several layers under one budget of slots: the best-scored granules of all layers together.

    Args:
        scores: float (out, ...) per layer, finite, comparable between layers.
        granularities: per layer, `element` or `block(k)`.
        budget: slots to keep in all, reached within half a granule.
        floors: slots that a layer keeps at least (its best ones), within half a granule; None: none.

    Returns:
        bool masks in the shapes of the scores.

    Raises:
        ValueError: the floors exceed the budget, or the budget exceeds the slots.
    """
    slots = sum(layer.numel() for layer in scores)
    least = sum(floors) if floors is not None else 0
    if not least <= budget <= slots:
        raise ValueError(f"a budget for these layers lies in {least}..{slots} slots, got {budget}")
    means, sizes = zip(*(_granules(layer.detach(), form.block) for layer, form in zip(scores, granularities, strict=True)), strict=True)
    if floors is not None:
        means = tuple(
            mean.masked_fill(_top_granules(mean, size, floor), torch.inf) if floor else mean
            for mean, size, floor in zip(means, sizes, floors, strict=True)
        )
    kept = _top_granules(torch.cat(means), torch.cat(sizes), budget)
    ends = list(accumulate(len(mean) for mean in means))
    parts = [kept[end - len(mean) : end] for end, mean in zip(ends, means, strict=True)]
    return [_spread(part, layer, form.block) for part, layer, form in zip(parts, scores, granularities, strict=True)]


def _granules(scores: torch.Tensor, block: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean score and number of slots of every block, row by row: float (granules,), int64 (granules,)."""
    rows = scores.flatten(1)
    if block == 1:
        return rows.flatten(), torch.ones(1, dtype=torch.int64, device=rows.device).expand(rows.numel())
    fan_in = rows.shape[1]
    blocks = -(-fan_in // block)
    sums = functional.pad(rows, (0, blocks * block - fan_in)).view(len(rows), blocks, block).sum(2)
    sizes = torch.full((blocks,), block, dtype=torch.int64, device=rows.device)
    sizes[-1] = fan_in - (blocks - 1) * block
    return (sums / sizes).flatten(), sizes.expand(len(rows), blocks).flatten()


def _top_granules(means: torch.Tensor, sizes: torch.Tensor, slots: int) -> torch.Tensor:
    """Marks the granules with the largest means whose slots come nearest to `slots` (of two, the fewer), at least one unless 0."""
    if slots == 0 or len(means) == 0:
        return torch.zeros_like(means, dtype=torch.bool)
    smallest, largest = int(sizes.min()), int(sizes.max())
    if smallest == largest:
        return top_mask(means, min(len(means), max(1, (2 * slots + largest - 1) // (2 * largest))))
    order = torch.sort(means, descending=True, stable=True).indices
    distance = (sizes[order].cumsum(0) - slots).abs()
    kept = torch.zeros_like(means, dtype=torch.bool)
    kept[order[: int(distance.argmin()) + 1]] = True
    return kept


def _spread(kept: torch.Tensor, like: torch.Tensor, block: int) -> torch.Tensor:
    """The mask of the slots of the kept granules, bool in the shape of `like`."""
    if block == 1:
        return kept.view(like.shape)
    rows = like.flatten(1).shape
    return kept.view(rows[0], -1).repeat_interleave(block, 1)[:, : rows[1]].reshape(like.shape)


def _best_of_groups(scores: torch.Tensor, keep: int, group: int) -> torch.Tensor:
    """Marks the `keep` largest of every `group` consecutive scores of a row, by counting how many of its group go before each."""
    rows = scores.detach().flatten(1)
    fan_in = rows.shape[1]
    groups = -(-fan_in // group)
    values = functional.pad(rows, (0, groups * group - fan_in), value=-torch.inf).view(len(rows), groups, group)
    before = torch.zeros_like(values, dtype=torch.int16)
    for position in range(group):
        other = values[..., position : position + 1]
        before += other > values
        before[..., position + 1 :] += other == values[..., position + 1 :]
    return (before < keep).flatten(1)[:, :fan_in].reshape(scores.shape)
