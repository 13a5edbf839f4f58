"""A replay buffer: a uniform sample of all examples seen so far, of fixed capacity (reservoir sampling, Vitter, ACM TOMS 1985).

Example number s (0-based) is kept while there is room, else it takes the place of a uniformly drawn entry with probability capacity / (s + 1). After
any number of examples each of them is in the buffer with the same probability.

Deviation from the public code of the replay methods: an example is offered once, at the end of its task, not in every epoch, so that the count of
seen examples is the number of examples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray


@dataclass(frozen=True)
class ReplayBuffer:
    """Examples of earlier tasks as the data give them.

    Attributes:
        x: (n, ...), raw, without normalisation and augmentation.
        rows: int64 (n,), the logit of each label.
        logits: float32 (n, k), what the network answered when the example came; 0 beyond `width`. k = 0 where nobody asks for them.
        width: int64 (n,), number of logits that the network had then.
        seen: number of examples offered so far.
    """

    x: torch.Tensor
    rows: torch.Tensor
    logits: torch.Tensor
    width: torch.Tensor
    seen: int

    def __len__(self) -> int:
        return len(self.rows)

    def to_memory(self) -> dict[str, NDArray[Any]]:
        """As arrays for a revision's memory; logits as 16-bit floats."""
        memory: dict[str, NDArray[Any]] = {"x": self.x.numpy(), "rows": self.rows.numpy(), "seen": np.array([self.seen], np.int64)}
        if self.logits.shape[1]:
            memory |= {"logits": self.logits.half().numpy(), "width": self.width.numpy()}
        return memory

    @classmethod
    def from_memory(cls, memory: Mapping[str, NDArray[Any]]) -> ReplayBuffer | None:
        """The buffer that a revision kept; None where it kept none."""
        if "x" not in memory:
            return None
        rows = torch.from_numpy(memory["rows"])
        logits = torch.from_numpy(memory["logits"]).float() if "logits" in memory else torch.zeros(len(rows), 0)
        width = torch.from_numpy(memory["width"]) if "width" in memory else torch.zeros_like(rows)
        return cls(torch.from_numpy(memory["x"]), rows, logits, width, int(memory["seen"][0]))


def offer(buffer: ReplayBuffer | None, x: torch.Tensor, rows: torch.Tensor, logits: torch.Tensor, *, capacity: int, seed: int) -> ReplayBuffer:
    """The buffer after it was offered examples, in their order.

    Args:
        buffer: as it was; None: empty.
        x: (n, ...), of the buffer's dtype.
        rows: int64 (n,).
        logits: float32 (n, k), k no less than the buffer's; k = 0 keeps none.
        capacity: most examples that it holds, at least 1.
        seed: of the draws.
    """
    held, seen = (0, 0) if buffer is None else (len(buffer), buffer.seen)
    offered = len(rows)
    source = _reservoir(held, seen, offered, capacity, np.random.default_rng(seed))
    width = torch.full((offered,), logits.shape[1])
    if buffer is None:
        parts = (x, rows, logits, width)
    else:
        old = torch.nn.functional.pad(buffer.logits, (0, logits.shape[1] - buffer.logits.shape[1]))
        parts = tuple(torch.cat(pair) for pair in ((buffer.x, x), (buffer.rows, rows), (old, logits), (buffer.width, width)))
    x, rows, logits, width = (part[source] for part in parts)
    return ReplayBuffer(x, rows, logits, width, seen + offered)


def _reservoir(held: int, seen: int, offered: int, capacity: int, random: np.random.Generator) -> torch.Tensor:
    """Which of the entries 0..held-1 and the new examples held..held+offered-1 stand in the buffer afterwards, int64 (at most capacity,)."""
    entries = list(range(held))
    places = random.integers(0, np.arange(seen + 1, seen + offered + 1)) if offered else np.zeros(0, np.int64)
    for example, place in enumerate(places.tolist()):
        if len(entries) < capacity:
            entries.append(held + example)
        elif place < capacity:
            entries[place] = held + example
    return torch.tensor(entries, dtype=torch.int64)
