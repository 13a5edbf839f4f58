"""Task relevance: what matters to this task and not to the others.

Let F_u(D) be the mean squared gate gradient of unit u on data D (`taylor`, the diagonal Fisher of the gates), divided by its mean over all units of
all groups, so that tasks of unlike loss can be compared. With m_u the mean of F_u over the other tasks:

    s_u = F_u(this) * F_u(this) / (F_u(this) + m_u),    0 where F_u(this) is 0

The first factor says how much the task needs the unit, the rest, in [0, 1], how much of the need for it is the task's own: 1 for a unit that no
other task uses, 1/2 for one that all use alike. Without other tasks it is 1 and the ranking is that of `taylor`.

One by one, weights score the same expression of the diagonal Fisher of weights (`fisher`), normalised over all weights; without other tasks the
ranking is that of `fisher`.

Source: ours; the Fisher of gates is from Molchanov et al., 2019, see `taylor`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tsn_toolkit.contracts import ModelGraph
from tsn_toolkit.errors import DataError
from tsn_toolkit.importance import fisher, taylor
from tsn_toolkit.importance._per_weight import Batches, Loss, require_batches

Scores = Mapping[str, NDArray[np.float64]]


def score(
    model: nn.Module,
    graph: ModelGraph,
    batches: Batches,
    loss: Loss,
    *,
    others: Sequence[Sequence[tuple[torch.Tensor, torch.Tensor]]] = (),
) -> dict[str, NDArray[np.float64]]:
    """What this task alone needs, per unit, with the model in eval mode.

    Args:
        model: not changed; a copy runs.
        graph: of the model.
        batches: (x, y) pairs of this task, at least one.
        loss: mean over the batch; it is asked for the labels of the other tasks too.
        others: the batches of every other task, at least one each; empty for no contrast.

    Raises:
        DataError: if this or another task has no batch.
    """
    _check(batches, others)
    return _contrast(taylor.score(model, graph, batches, loss), [taylor.score(model, graph, other, loss) for other in others])


def weight_scores(
    model: nn.Module,
    graph: ModelGraph,
    batches: Batches,
    loss: Loss,
    *,
    others: Sequence[Sequence[tuple[torch.Tensor, torch.Tensor]]] = (),
) -> dict[str, NDArray[np.float64]]:
    """What this task alone needs, per weight; arguments and errors as in `score`."""
    _check(batches, others)
    return _contrast(fisher.weight_scores(model, graph, batches, loss), [fisher.weight_scores(model, graph, other, loss) for other in others])


def _check(batches: Batches, others: Sequence[Batches]) -> None:
    """Refuse tasks without data.

    Raises:
        DataError: naming the task.
    """
    require_batches(batches, "relevance")
    for position, other in enumerate(others):
        if not len(other):
            raise DataError(f"`others[{position}]` of criterion `relevance` holds no batch. Give every other task one, or leave it out.")


def _contrast(this: Scores, others: Sequence[Scores]) -> dict[str, NDArray[np.float64]]:
    """s of the module docstring, from scores that are not normalised yet."""
    own, rest = _normalised(this), [_normalised(other) for other in others]
    result = {}
    for name, values in own.items():
        theirs = np.mean([other[name] for other in rest], axis=0) if rest else np.zeros_like(values)
        needed = values > 0
        result[name] = np.divide(values**2, values + theirs, out=np.zeros_like(values), where=needed)
    return result


def _normalised(scores: Scores) -> dict[str, NDArray[np.float64]]:
    """Divided by the mean over all entries of all arrays; all zero stays."""
    mean = sum(float(values.sum()) for values in scores.values()) / max(1, sum(values.size for values in scores.values()))
    return {name: values / mean if mean > 0 else values for name, values in scores.items()}
