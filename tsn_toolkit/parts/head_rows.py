"""Which logits of one shared head belong to which task, and which of them compete.

task-incremental     every task has logits of its own, and a prediction is told the task: only its logits compete
domain-incremental   all tasks have the same classes and share their logits; all compete
class-incremental    every class has one logit; all logits of all tasks so far compete

The three settings are those of van de Ven and Tolias ("Three scenarios for continual learning", 2019).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch

from tsn_toolkit.errors import RecipeError

Setting = Literal["task-incremental", "domain-incremental", "class-incremental"]


@dataclass(frozen=True)
class HeadRows:
    """The logits of a shared head.

    Attributes:
        classes: the data's own class index of each logit.
        rows: task name -> the logit of each of its labels, in the order of the tasks.
        task_known: whether only the logits of an example's task compete.
    """

    classes: tuple[int, ...] = ()
    rows: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    task_known: bool = True

    def with_task(self, name: str, classes: tuple[int, ...], setting: Setting) -> HeadRows:
        """The rows with one task more; new logits stand behind those that there are.

        Raises:
            RecipeError: the setting is domain-incremental and the task has other classes than the tasks before it.
        """
        if setting == "domain-incremental" and self.rows and set(classes) != set(self.classes):
            raise RecipeError(
                f"`strategy.options.setting` is domain-incremental, so all tasks must have the same classes; task `{name}` has {sorted(classes)}, "
                f"the tasks before it have {sorted(self.classes)}. Set it to task-incremental or class-incremental."
            )
        known = setting == "task-incremental"
        fresh = classes if known else tuple(label for label in classes if label not in self.classes)
        grown = self.classes + fresh
        rows = tuple(range(len(self.classes), len(grown))) if known else tuple(grown.index(label) for label in classes)
        return HeadRows(grown, {**self.rows, name: rows}, known)

    def competing(self, rows: torch.Tensor) -> torch.Tensor:
        """Which logits compete for examples whose labels are the logits `rows`, int64 (n,): bool (n, logits)."""
        size = len(self.classes)
        if not self.task_known:
            return torch.ones(len(rows), size, dtype=torch.bool, device=rows.device)
        task_of = torch.empty(size, dtype=torch.int64)
        for number, logits in enumerate(self.rows.values()):
            task_of[list(logits)] = number
        task_of = task_of.to(rows.device)
        return task_of[rows][:, None] == task_of[None, :]

    def visible(self, logits: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Logits (n, logits) with those at -inf that do not compete for examples whose labels are the logits `rows` (n,)."""
        if not self.task_known:
            return logits
        return logits.masked_fill(~self.competing(rows), -torch.inf)

    def labels(self, name: str, y: torch.Tensor) -> torch.Tensor:
        """Labels 0.. of a task as logits of the head, int64 (n,)."""
        return torch.tensor(self.rows[name], device=y.device)[y]
