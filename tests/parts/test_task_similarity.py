"""Similarity of tasks on features: measures against slow references, and a choice that noise does not sway."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tsn_toolkit.parts.task_similarity import NEIGHBOURS, ParentRule, choose_by_similarity, gaussian_gains, nearest_neighbour_hits

KNN, GAUSSIAN = ParentRule("knn", 0.0, 512), ParentRule("gaussian", 0.0, 512)


def clouds(seed, *, apart, count=90, classes=3, width=6):
    """Features (n, width) of classes whose means lie `apart`, and labels."""
    random = np.random.default_rng(seed)
    labels = random.integers(classes, size=count)
    means = np.random.default_rng(99).standard_normal((classes, width))
    return torch.from_numpy(apart * means[labels] + random.standard_normal((count, width))).float(), torch.from_numpy(labels)


def slow_hits(features, labels):
    """One example after the other, by sorted distances and counted votes."""
    x = features.numpy().astype(np.float64)
    spread = x.std(axis=0)
    x = (x - x.mean(axis=0)) / np.where(spread > 0, spread, 1)
    hits = []
    for i in range(len(x)):
        others = sorted((float(np.square(x[i] - x[j]).sum()), j) for j in range(len(x)) if j != i)[:NEIGHBOURS]
        votes = [int(labels[j]) for _, j in others]
        hits.append(float(max(range(int(labels.max()) + 1), key=lambda c: (votes.count(c), -c)) == int(labels[i])))
    return hits


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), apart=st.sampled_from([0.0, 0.5, 2.0]), count=st.integers(2, 40))
def test_neighbours_equal_a_slow_count(seed, apart, count):
    features, labels = clouds(seed, apart=apart, count=count)
    assert nearest_neighbour_hits(features, labels).tolist() == slow_hits(features, labels)


def test_neighbours_by_hand():
    """Two clusters; the last example has the other cluster's label, so its neighbours outvote it."""
    features = torch.tensor([[0.0], [0.1], [0.2], [9.0], [9.1], [9.2], [9.3], [9.4], [9.5], [0.3], [0.4], [0.5], [9.6]])
    labels = torch.tensor([0, 0, 0, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0])
    assert nearest_neighbour_hits(features, labels).tolist() == [1.0] * 12 + [0.0]


def test_a_divergence_by_hand():
    """One feature, halves alike: class means -1 and 1, variance .25 in a class and 1.25 in all."""
    features = torch.tensor([[-1.5], [-1.5], [-0.5], [-0.5], [0.5], [0.5], [1.5], [1.5]])
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    expected = {1.5: -0.5 * (np.log(0.25 / 1.25) + 0.25 / 0.25 - 2.25 / 1.25), 0.5: -0.5 * (np.log(0.25 / 1.25) + 0.25 / 0.25 - 0.25 / 1.25)}
    np.testing.assert_allclose(gaussian_gains(features, labels), [expected[abs(float(x))] for x in features[:, 0]])


def test_constant_features_and_classes_of_one_example_say_nothing():
    features, labels = clouds(0, apart=2.0, count=21)
    wider = torch.cat([features, torch.full((21, 3), 7.0)], 1)
    np.testing.assert_allclose(gaussian_gains(wider, labels), gaussian_gains(features, labels))
    assert nearest_neighbour_hits(wider, labels).tolist() == nearest_neighbour_hits(features, labels).tolist()
    labels[0] = 3
    assert gaussian_gains(features, labels)[0] == 0
    assert gaussian_gains(torch.zeros(5, 2), torch.tensor([0, 0, 0, 1, 1])).tolist() == [0.0] * 5


@pytest.mark.parametrize("rule", [KNN, GAUSSIAN])
def test_the_best_of_those_that_beat_the_trunk_is_the_parent(rule):
    _, labels = clouds(1, apart=0)
    features = {"trunk": clouds(1, apart=0.4)[0], "far": clouds(1, apart=0.8)[0], "twin": clouds(1, apart=1.6)[0]}
    choice = choose_by_similarity(features, labels, rule)
    assert choice.parent == choice.best == "twin" and choice.examples == 90 and choice.against == "the trunk"
    assert choice.similarity["twin"] > choice.similarity["far"] > choice.similarity["trunk"]
    assert 0 < choice.lower < choice.gain.mean == pytest.approx(choice.similarity["twin"] - choice.similarity["trunk"])
    assert "parent `twin` by" in choice.line() and choice.as_plain()["gain_lower"] == choice.lower
    strict = ParentRule(rule.measure, choice.lower + 1e-9, 512)
    assert choose_by_similarity(features, labels, strict).parent == "trunk"


def test_features_that_say_nothing_are_no_reason_where_the_trunk_is_worse_than_guessing():
    """The trunk's densities are far off in each half, so that its gain is below 0; the task's constant feature gains 0, as guessing does."""
    labels = torch.arange(40) % 2
    drifting = (torch.arange(40.0) // 2 % 2 * 50 + torch.arange(40) % 3)[:, None]
    choice = choose_by_similarity({"trunk": drifting, "task": torch.zeros(40, 1)}, labels, GAUSSIAN)
    assert choice.similarity["trunk"] < choice.similarity["task"] == 0
    assert (choice.parent, choice.against, choice.gain.mean) == ("trunk", "guessing", 0.0)


@pytest.mark.parametrize("rule", [KNN, GAUSSIAN])
def test_noise_rarely_finds_a_parent_however_many_candidates_there_are(rule):
    found = 0
    for seed in range(40):
        random = np.random.default_rng(seed)
        labels = torch.from_numpy(random.integers(2, size=80))
        features = {name: torch.from_numpy(random.standard_normal((80, 4))) for name in ("trunk", *"abcdefgh")}
        found += choose_by_similarity(features, labels, rule).parent != "trunk"
    assert found <= 3, "one in fifty is meant"


def test_without_tasks_the_trunk_is_the_parent_and_equals_go_to_the_first():
    features, labels = clouds(3, apart=3.0)
    alone = choose_by_similarity({"trunk": features}, labels, KNN)
    assert (alone.parent, alone.gain, alone.as_plain()["gain"]) == ("trunk", None, None)
    noise = clouds(4, apart=0)[0]
    assert choose_by_similarity({"trunk": noise, "a": features, "b": features}, labels, KNN).parent == "a"
