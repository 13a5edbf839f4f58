"""Where learning starts: inherited slots, fresh slots, the parent's vectors and the parent's head."""

import learning_samples as samples
import numpy as np
import pytest
import torch

from tsn_toolkit.store.store import Store
from tsn_toolkit.trainer.context import starting_model


@pytest.fixture
def seed_store(tmp_path):
    return Store.create(tmp_path / "seed", trunk=samples.trunk("seed"), graph=samples.graph(), recipe={})


@pytest.fixture
def trained_store(tmp_path):
    return Store.create(tmp_path / "trained", trunk=samples.trunk("checkpoint"), graph=samples.graph(), recipe={})


def test_over_a_seed_trunk_every_task_starts_from_the_same_fresh_net(seed_store):
    first = starting_model(samples.make_context(seed_store, samples.make_data(), seed=1))
    second = starting_model(samples.make_context(seed_store, samples.make_data("b", (3, 4)), seed=2))
    pristine = samples.factory()
    for name, tensor in pristine.state_dict().items():
        if not name.startswith("head"):
            assert torch.equal(first.state_dict()[name], tensor) and torch.equal(second.state_dict()[name], tensor)
    assert first.head.weight.shape == (3, 32) and second.head.weight.shape == (2, 32)


def test_over_a_checkpoint_the_trunk_and_the_rows_of_known_classes(trained_store):
    context = samples.make_context(trained_store, samples.make_data(classes=(4, 2)))
    model = starting_model(context)
    head = samples.trunk("checkpoint").head
    np.testing.assert_array_equal(model.head.weight.detach().numpy(), (head.codes.astype(np.float32) * head.scale[:, None])[[4, 2]])
    np.testing.assert_array_equal(model.head.bias.detach().numpy(), head.bias[[4, 2]])
    for name, frozen in context.inherited.items():
        weight = frozen.q.astype(np.float32) * frozen.scale.reshape(-1, 1, 1, 1)
        np.testing.assert_array_equal(model.get_submodule(name).weight.detach().numpy(), weight)


def test_a_class_that_the_parent_does_not_know_gets_a_fresh_head(trained_store):
    context = samples.make_context(trained_store, samples.make_data(classes=(4, 2)), start_classes=(0, 1, 2, 3, 5, 6))
    model = starting_model(context)
    head = samples.trunk("checkpoint").head
    rows = head.codes.astype(np.float32) * head.scale[:, None]
    assert not any(np.array_equal(model.head.weight[0].detach().numpy(), row) for row in rows)


def test_over_a_task_owned_slots_are_inherited_and_the_others_fresh(seed_store):
    seed_store.commit(samples.learn("tsn", samples.make_context(seed_store, samples.make_data())), {})
    context = samples.make_context(seed_store, samples.make_data("b", (3, 4, 5)), parent="first")
    model, pristine = starting_model(context), samples.factory()
    for name, frozen in context.inherited.items():
        values = frozen.q.astype(np.float32) * frozen.scale.reshape(-1, 1, 1, 1)
        expected = np.where(frozen.present, values, pristine.get_submodule(name).weight.detach().numpy())
        np.testing.assert_array_equal(model.get_submodule(name).weight.detach().numpy(), expected)
        assert 0 < frozen.present.mean() < 1
        quiet = starting_model(context, fresh_share=0.5).get_submodule(name).weight.detach().numpy()
        np.testing.assert_allclose(quiet, np.where(frozen.present, values, 0.5 * expected), rtol=1e-6)
    folded = (model.bn1.weight * (model.bn1.running_var + model.bn1.eps).rsqrt()).detach().numpy()
    np.testing.assert_allclose(folded, seed_store.weights("first").norms["bn1"].gain, rtol=1e-5)
    assert not np.allclose(model.bn1.running_var.numpy(), 1.0, atol=1e-3), "the statistics are stated anew"


def test_the_generator_follows_from_the_seed(seed_store):
    first, again = (samples.make_context(seed_store, samples.make_data(), seed=5).generator() for _ in range(2))
    assert torch.equal(torch.rand(3, generator=first), torch.rand(3, generator=again))


@pytest.mark.parametrize(("share", "epochs", "expected"), [(0.25, 12, 3), (0.25, 3, 1), (0.0, 12, 1), (0.5, 5, 2), (1.0, 7, 7)])
def test_a_share_of_the_epochs_is_whole_and_at_least_one(tmp_path, share, epochs, expected):
    store = Store.create(tmp_path / "store", trunk=samples.trunk("seed"), graph=samples.graph(), recipe={})
    assert samples.make_context(store, samples.make_data(), epochs=epochs).epochs_of(share) == expected
