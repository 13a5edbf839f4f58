"""Task relevance: the formula by hand, its limits, and what it refuses. What it finds is in test_planted.py."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tsn_toolkit.errors import DataError
from tsn_toolkit.graph import trace
from tsn_toolkit.importance import fisher, relevance, taylor


@pytest.fixture
def setting():
    """Model, graph and the batches of three tasks."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3), nn.ReLU(), nn.Linear(3, 2))
    tasks = [[(torch.randn(6, 4), torch.randint(0, 2, (6,)))] for _ in range(3)]
    return model, trace(model, torch.zeros(1, 4)), tasks


def test_the_formula_by_loops(setting):
    model, graph, tasks = setting
    found = relevance.score(model, graph, tasks[0], F.cross_entropy, others=tasks[1:])
    raw = [taylor.score(model, graph, task, F.cross_entropy) for task in tasks]
    means = [np.mean([*scores["0"], *scores["2"]]) for scores in raw]
    for name, size in (("0", 5), ("2", 3)):
        for unit in range(size):
            own, *rest = (scores[name][unit] / mean for scores, mean in zip(raw, means, strict=True))
            assert found[name][unit] == pytest.approx(own * own / (own + sum(rest) / 2) if own else 0.0)


def test_equal_needs_halve_and_a_tasks_loss_does_not_count_as_need(setting):
    model, graph, tasks = setting
    alone = relevance.score(model, graph, tasks[0], F.cross_entropy)
    shared = relevance.score(model, graph, tasks[0], F.cross_entropy, others=[tasks[0]])
    marked = [(x, y + 10) for x, y in tasks[1]]  # a task whose loss is seven times as large
    louder = relevance.score(model, graph, tasks[0], lambda z, y: F.cross_entropy(z, y % 10) * (7 if y.min() >= 10 else 1), others=[marked, tasks[2]])
    quiet = relevance.score(model, graph, tasks[0], F.cross_entropy, others=tasks[1:])
    for name in alone:
        assert shared[name] == pytest.approx(alone[name] / 2)
        assert louder[name] == pytest.approx(quiet[name], rel=1e-4)


def test_without_other_tasks_the_ranking_is_that_of_taylor_and_fisher(setting):
    model, graph, tasks = setting
    for found, plain in (
        (relevance.score(model, graph, tasks[0], F.cross_entropy), taylor.score(model, graph, tasks[0], F.cross_entropy)),
        (relevance.weight_scores(model, graph, tasks[0], F.cross_entropy), fisher.weight_scores(model, graph, tasks[0], F.cross_entropy)),
    ):
        factor = sum(values.sum() for values in found.values()) / sum(values.sum() for values in plain.values())
        for name, values in plain.items():
            assert found[name] == pytest.approx(factor * values)


def test_another_task_without_data_is_refused(setting):
    model, graph, tasks = setting
    with pytest.raises(DataError, match=r"`others\[1\]` of criterion `relevance` holds no batch"):
        relevance.score(model, graph, tasks[0], F.cross_entropy, others=[tasks[1], []])
