"""Units that stay are the best by the criterion; the warm-up leaves what is inherited as it is."""

import learning_samples as samples
import numpy as np
import pytest
import torch

from tsn_toolkit.parts.subnet_weight import wrapped
from tsn_toolkit.store.store import Store
from tsn_toolkit.trainer.context import starting_model
from tsn_toolkit.trainer.unit_choice import kept_units, warm_up_


@pytest.fixture
def store(tmp_path):
    return Store.create(tmp_path / "store", trunk=samples.trunk("seed"), graph=samples.graph(), recipe={})


def test_the_largest_filters_stay(store):
    """By magnitude, conv1's units are ranked by the norms of their filters alone."""
    context = samples.make_context(store, samples.make_data())
    model = starting_model(context)
    found = kept_units(model, context, batches=2, loss="output")
    norms = model.conv1.weight.detach().flatten(1).norm(dim=1).numpy()
    np.testing.assert_array_equal(found["conv1"], np.isin(np.arange(4), np.argsort(-norms)[:3]))
    assert {name: int(mask.sum()) for name, mask in found.items()} == {"conv1": 3, "conv2": 6, "conv4": 6}


def test_a_plan_without_groups_keeps_all(store):
    context = samples.make_context(store, samples.make_data(), plan=samples.plan(units_keep=1.0))
    assert kept_units(starting_model(context), context, batches=2, loss="output") == {}


def test_the_two_losses_judge_differently(store):
    """A shuffle of the labels moves the one and not the other."""
    data = samples.make_data()
    shuffled = samples.make_data()
    shuffled.train.y.copy_(data.train.y.flip(0))
    scores = {}
    for loss in ("labels", "output"):
        for name, task in (("as they are", data), ("shuffled", shuffled)):
            context = samples.make_context(store, task, importance="taylor")
            model = starting_model(context)
            torch.manual_seed(0)
            found = kept_units(model, context, batches=5, loss=loss)
            scores[loss, name] = np.concatenate(list(found.values()))
    np.testing.assert_array_equal(scores["output", "as they are"], scores["output", "shuffled"])
    assert (scores["labels", "as they are"] != scores["labels", "shuffled"]).any()


def test_the_warm_up_trains_free_slots_alone(store):
    store.commit(samples.learn("tsn", samples.make_context(store, samples.make_data())), {})
    context = samples.make_context(store, samples.make_data("second", (3, 4, 5)), parent="first")
    model = starting_model(context)
    before = {name: model.get_submodule(name).weight.detach().clone() for name in context.inherited}
    warm_up_(model, context, 1, context.generator(), min_gain=1e-3)
    assert not list(wrapped(model))
    for name, frozen in context.inherited.items():
        present, after = torch.from_numpy(frozen.present), model.get_submodule(name).weight
        torch.testing.assert_close(after[present], before[name][present])
        assert (after[~present] != before[name][~present]).float().mean() > 0.9
