"""How a store answers for a task today.

A task of isolation `exact` answers with its own part, for ever. Where the tasks share one network (isolation `none`), each part is a revision, and
the newest one that knows the task answers for it: with the task's own logits where a prediction is told the task, else with all logits.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from tsn_toolkit.contracts import HeadState, TaskData, TaskWeights
from tsn_toolkit.store.answering import newest_part
from tsn_toolkit.store.store import Store


@dataclass(frozen=True)
class Answer:
    """One task as the store answers for it.

    Attributes:
        part: name of the task whose part answers: the task itself, or the newest revision that knows it.
        weights: that part decoded, under the task's own name; its head has the logits that compete.
        rows: which of these logits each label of the task is; None: label i is logit i.
    """

    part: str
    weights: TaskWeights
    rows: tuple[int, ...] | None

    def as_logits(self, data: TaskData) -> TaskData:
        """The task's data with its labels as logits of the answer, and its classes as theirs."""
        if self.rows is None:
            return data
        table = torch.tensor(self.rows)
        return data.relabelled(self.weights.classes, lambda labels: table[labels])


def answer(store: Store, task: str) -> Answer:
    """How the store answers for a task today.

    Raises:
        StoreError: there is no such task, or a part is damaged.
    """
    part = newest_part(store, task)
    revision, weights = store.revision(part), store.weights(part)
    if revision is None:
        return Answer(part, weights, None)
    rows = revision.rows[task]
    if not revision.task_known:
        return Answer(part, replace(weights, name=task), rows)
    chosen = list(rows)
    head = HeadState(codes=weights.head.codes[chosen], scale=weights.head.scale[chosen], bias=weights.head.bias[chosen])
    return Answer(part, replace(weights, name=task, classes=tuple(weights.classes[row] for row in rows), head=head), None)


def superseded_bytes(store: Store) -> int:
    """Bytes of the parts that answer for no task any more."""
    used = {newest_part(store, entry.name) for entry in store.entries}
    return sum(entry.size_bytes for entry in store.entries if entry.name not in used)
