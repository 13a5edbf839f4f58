"""Planted truth: units that are dead, or serve one of two tasks, by construction; every criterion must see what its definition can see."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tsn_toolkit.graph import trace
from tsn_toolkit.importance import fisher, random, relevance, taylor
from tsn_toolkit.importance.ranking import keep_units
from tsn_toolkit.registry import load

GROUP = "0"
OF_A, OF_B, OF_BOTH = (0, 1, 2), (3, 4, 5), (6, 7)
DEAD = {"no outgoing weights": 8, "zero norm scale": 9, "never active": 10, "no weights": 11}
VISIBLE = {
    "magnitude": {"no weights"},
    "bn_scale": {"zero norm scale"},
    "obs": {"no weights"},
    "taylor": set(DEAD),
    "fisher": set(DEAD),
    "wanda": set(DEAD),
    "relevance": set(DEAD),
}


def planted():
    """Task A looks at channel 0, task B at channel 1: -> model, graph, batches of A, batches of B.

    Both tasks have the same pictures and labels in their channel, and all live units the same weights up to a few percent; those of both tasks are
    1.2 times as large, so that each task alone needs them most.
    """
    generator = torch.Generator().manual_seed(0)
    first, second = (nn.Conv2d(2, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12)), (nn.Conv2d(12, 4, 3), nn.BatchNorm2d(4))
    model = nn.Sequential(*first, nn.ReLU(), *second, nn.ReLU(), nn.Flatten(), nn.Linear(64, 2)).eval()
    kernel, outgoing = torch.randn(3, 3, generator=generator), torch.randn(4, 3, 3, generator=generator) / 4
    with torch.no_grad():
        model[0].weight.zero_()
        for unit in range(12):
            if unit not in OF_B:
                model[0].weight[unit, 0] = kernel * (1 + unit / 100)
            if unit not in OF_A:
                model[0].weight[unit, 1] = kernel * (1 + (unit - 3 * (unit in OF_B)) / 100)
            model[3].weight[:, unit] = outgoing
        model[0].weight[list(OF_BOTH)] *= 1.2
        model[3].weight[:, DEAD["no outgoing weights"]] = 0
        model[1].weight[DEAD["zero norm scale"]] = 0
        model[1].bias[DEAD["never active"]] = -1000
        model[0].weight[DEAD["no weights"]] = 0
        model[3].weight[:, DEAD["no weights"]] = 0
        model[7].weight.copy_(torch.randn(2, 64, generator=generator) / 4)
    pictures, labels = torch.randn(24, 1, 6, 6, generator=generator), torch.randint(0, 2, (24,), generator=generator)
    nothing = torch.zeros_like(pictures)
    tasks = [[(torch.cat(channels, 1)[i : i + 8], labels[i : i + 8]) for i in (0, 8, 16)] for channels in ((pictures, nothing), (nothing, pictures))]
    return model, trace(model, torch.zeros(1, 2, 6, 6)), *tasks


@pytest.mark.parametrize("name", VISIBLE)
def test_dead_units_are_ranked_last(name):
    """On the examples of both tasks, so that every live unit is used."""
    model, graph, a, b = planted()
    scores = load("tsn_toolkit.importance", name).score(model, graph, [*a, *b], F.cross_entropy)
    seen = {DEAD[what] for what in VISIBLE[name]}
    assert (scores[GROUP][list(seen)] == 0).all()
    live = [*OF_A, *OF_B, *OF_BOTH]
    assert (scores[GROUP][live] > 0).all()
    kept = keep_units(graph, scores, (12 - len(seen)) / 12, scope="layer")[GROUP]
    assert set(np.flatnonzero(~kept)) == seen


def test_weights_of_dead_units_are_ranked_last():
    model, graph, a, b = planted()
    for name, units in {"fisher": DEAD.values(), "taylor": DEAD.values(), "magnitude": [DEAD["no weights"]], "obs": [DEAD["no weights"]]}.items():
        scores = load("tsn_toolkit.importance", name).weight_scores(model, graph, [*a, *b], F.cross_entropy)["0"]
        assert not scores[list(units)].any(), name
        assert (scores[list(OF_BOTH)].reshape(2, -1).max(1) > 0).all(), name
    inputs = {"wanda": {9, 10, 11}, "obs": {9, 10, 11}}  # units that send nothing: the weights that read them are of no use
    for name, units in inputs.items():
        scores = load("tsn_toolkit.importance", name).weight_scores(model, graph, [*a, *b], F.cross_entropy)["3"]
        assert set(np.flatnonzero(~scores.any((0, 2, 3)))) == units | {8}, name


def test_relevance_finds_the_tasks_own_units():
    model, graph, a, b = planted()
    for this, other, own in ((a, b, OF_A), (b, a, OF_B)):
        found = relevance.score(model, graph, this, F.cross_entropy, others=[other])[GROUP]
        assert set(np.argsort(-found)[:3]) == set(own)
        alone = taylor.score(model, graph, this, F.cross_entropy)[GROUP]
        assert set(np.argsort(-alone)[:2]) == set(OF_BOTH)


def test_relevance_finds_the_weights_that_read_the_tasks_own_units():
    model, graph, a, b = planted()
    for this, other, own in ((a, b, OF_A), (b, a, OF_B)):
        found = relevance.weight_scores(model, graph, this, F.cross_entropy, others=[other])["3"].sum((0, 2, 3))
        assert set(np.argsort(-found)[:3]) == set(own)
        alone = fisher.weight_scores(model, graph, this, F.cross_entropy)["3"].sum((0, 2, 3))
        assert set(np.argsort(-alone)[:2]) == set(OF_BOTH)


def test_random_finds_neither():
    """Of the four lowest of twelve, 4/3 are dead units by chance; of the three highest, 3/4 are the task's own."""
    model, graph, a, _ = planted()
    orders = [np.argsort(random.score(model, graph, a, F.cross_entropy, seed=seed)[GROUP]) for seed in range(300)]
    assert np.mean([len(set(order[:4]) & set(DEAD.values())) for order in orders]) == pytest.approx(4 / 3, abs=0.2)
    assert np.mean([len(set(order[-3:]) & set(OF_A)) for order in orders]) == pytest.approx(3 / 4, abs=0.2)
