"""What a penalty holds, how hard at most, and the importance that is handed on."""

from dataclasses import replace

import learning_samples as samples
import numpy as np
import pytest
import torch

from tsn_toolkit.contracts import Split
from tsn_toolkit.parts.head_rows import HeadRows
from tsn_toolkit.store.store import Store
from tsn_toolkit.trainer.revision import SharedNetwork
from tsn_toolkit.trainer.weight_anchor import PenaltyOptions, WeightAnchor, held_parameters


@pytest.fixture
def context(tmp_path):
    store = Store.create(tmp_path / "store", trunk=samples.trunk("seed"), graph=samples.graph(), recipe={})
    return samples.make_context(store, samples.make_data(), learning_rate=0.1)


def network(memory):
    model, head = samples.factory(), HeadRows().with_task("first", (0, 1, 2, 3, 4, 5), "task-incremental")
    return SharedNetwork(model, head, samples.make_data(), 0, memory)


def test_only_parameters_of_layers_are_held():
    assert held_parameters(samples.factory()) == ["conv1.weight", "conv2.weight", "conv3.weight", "conv4.weight", "head.weight", "head.bias"]


def test_the_penalty_by_hand_and_no_stiffer_than_one_over_the_rate(context):
    """strength 4, rate 0.1: F is limited to 2.5. A shift by 0.2 of two weights costs 4 / 2 * (0.5 + 2.5) * 0.04."""
    fisher = np.zeros((6, 32), np.float32)
    fisher[0, 0], fisher[1, 1] = 0.5, 99.0
    shared = network({"head.weight": fisher})
    anchor = WeightAnchor(shared, context, PenaltyOptions(strength=4.0, decay=1.0, fisher_examples=8))
    assert anchor.holds and float(anchor.penalty().detach()) == 0
    with torch.no_grad():
        shared.model.head.weight += 0.2
    assert float(anchor.penalty().detach()) == pytest.approx(4 / 2 * 3.0 * 0.04, rel=1e-5)


def test_what_earlier_tasks_lose_without_a_weight_by_hand(context):
    fisher = np.zeros((6, 32), np.float32)
    fisher[0, 0], fisher[1, 1] = 0.5, 2.0
    shared = network({"head.weight": fisher})
    anchor = WeightAnchor(shared, context, PenaltyOptions(strength=1.0, decay=1.0, fisher_examples=8))
    with torch.no_grad():
        shared.model.head.weight.fill_(3.0)
    found = anchor.losses_without("head.weight")
    assert found[0, 0] == 4.5 and found[1, 1] == 18.0 and found.sum() == 22.5


def test_every_task_s_importance_has_mean_1(context):
    fresh = WeightAnchor(network({}), context, PenaltyOptions(strength=1.0, decay=1.0, fisher_examples=20)).remember(samples.factory())
    everything = np.concatenate([values.ravel() for values in fresh.values()])
    assert everything.mean() == pytest.approx(1.0, rel=1e-5) and everything.max() > 2


def test_the_first_task_holds_nothing(context):
    assert not WeightAnchor(network({}), context, PenaltyOptions(strength=1.0, decay=1.0, fisher_examples=8)).holds


def test_importance_is_handed_on_with_its_decay_and_for_logits_that_came_since(context):
    """The older importance has rows for four logits; the network has six now."""
    old = {"head.weight": np.full((4, 32), 2.0, np.float32), "head.bias": np.full(4, 2.0, np.float32)}
    options = PenaltyOptions(strength=1.0, decay=0.25, fisher_examples=20)
    fresh, carried = (WeightAnchor(network(memory), context, options).remember(samples.factory()) for memory in ({}, old))
    assert set(fresh) == set(carried) == set(held_parameters(samples.factory()))
    np.testing.assert_allclose(carried["head.weight"][:4], fresh["head.weight"][:4] + 0.5, rtol=1e-6)
    np.testing.assert_array_equal(carried["head.weight"][4:], fresh["head.weight"][4:])
    np.testing.assert_array_equal(carried["conv1.weight"], fresh["conv1.weight"])
    assert all((values >= 0).all() and values.any() for values in fresh.values())


def test_labels_of_the_data_do_not_matter_where_one_task_competes(context):
    """The Fisher information draws its labels from the prediction."""
    shared = network({})
    swapped = replace(shared.data, train=Split(shared.data.train.x, shared.data.train.y.flip(0)))
    first, second = (
        WeightAnchor(replace(shared, data=data), context, PenaltyOptions(strength=1.0, decay=1.0, fisher_examples=20)).remember(samples.factory())
        for data in (shared.data, swapped)
    )
    np.testing.assert_array_equal(first["conv3.weight"], second["conv3.weight"])
