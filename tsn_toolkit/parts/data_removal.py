"""Dynamic data removal (DDR), the second part of SparCL (Wang et al., NeurIPS 2022), on example forgetting (Toneva et al., ICLR 2019).

An example is forgotten each time it was answered rightly in one epoch and wrongly in the next. At a few epochs the examples with the fewest
forgettings leave the training set: they are easy. Examples that were never answered rightly count as forgotten most. Which of equals leave is drawn,
so that the order of the data, which may be that of the classes, decides nothing.

Deviation: forgettings add up over the whole task, where the public code counts anew after each removal. With one epoch between two removals no
example would be seen twice in between, and none could be forgotten.
"""

from __future__ import annotations

import torch


class DataRemoval:
    """Training examples that are still in use; the `examples` of the training loop."""

    def __init__(self, size: int, *, fraction: float, stages: int, every: int, generator: torch.Generator):
        """All examples are in use.

        Args:
            size: number of training examples.
            fraction: of all examples that is removed in the end, 0..1.
            stages: number of removals, all of one size.
            every: epochs between removals; the first is before epoch number `every`.
            generator: of the order in which equals leave, on the CPU.
        """
        self._in_use, self._order = torch.arange(size), torch.randperm(size, generator=generator)
        self._per_stage = int(fraction * size) // stages
        self._last, self._every = stages * every, every
        self._forgotten = torch.zeros(size, dtype=torch.int64)
        self._right = torch.zeros(size, dtype=torch.bool)
        self._ever_right = torch.zeros(size, dtype=torch.bool)

    def chosen(self, epoch: int) -> torch.Tensor:
        """Positions in use from this epoch on, ascending int64; removes examples where the epoch is one of removal."""
        if epoch and epoch % self._every == 0 and epoch <= self._last:
            drawn = self._in_use[self._order[self._in_use].argsort()]
            easiest = drawn[self.forgettings()[drawn].argsort(stable=True)]
            self._in_use = easiest[min(self._per_stage, len(easiest) - 1) :].sort().values
        return self._in_use

    def observe(self, positions: torch.Tensor, correct: torch.Tensor) -> None:
        """What was right in a batch, int64 (n,) and bool (n,), each position once."""
        self._forgotten[positions] += self._right[positions] & ~correct
        self._right[positions] = correct
        self._ever_right[positions] |= correct

    def forgettings(self) -> torch.Tensor:
        """Forgettings of every example, int64 (size,); one more than the most of any where it was never right."""
        return torch.where(self._ever_right, self._forgotten, self._forgotten.max() + 1)
