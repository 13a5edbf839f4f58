"""`supsup`: signed constants of one initialisation, at most one bit per slot."""

import learning_samples as samples
import numpy as np
import pytest
import torch

from tsn_toolkit.extract import masked_model
from tsn_toolkit.masks.top import keep_count
from tsn_toolkit.store.allocation import allocation
from tsn_toolkit.store.store import Store

TASKS = {"a": (0, 1, 2), "b": (5, 3, 4), "c": (1, 3, 0)}
FAN_IN = {"conv1": 9, "conv2": 36, "conv3": 72, "conv4": 72}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    store = Store.create(tmp_path_factory.mktemp("supsup") / "store", trunk=samples.trunk("seed"), graph=samples.graph(), recipe={})
    parent = "trunk"
    for name, classes in TASKS.items():
        context = samples.make_context(store, samples.make_data(name, classes), parent=parent, epochs=6)
        store.commit(samples.learn("supsup", context), {})
        parent = name
    return store


def test_weights_are_the_signs_of_the_fresh_network_times_one_size(store):
    fresh = samples.factory()
    for name in TASKS:
        weights, states = store.weights(name), store.states(name)
        for layer, q in weights.q.items():
            used = states[layer] != 0
            assert used.sum() == keep_count(0.4, used.size)
            signs = np.sign(fresh.get_submodule(layer).weight.detach().numpy())
            np.testing.assert_array_equal(q, np.where(used, signs, 0))
            np.testing.assert_allclose(weights.scale[layer], np.sqrt(2 / (0.4 * FAN_IN[layer])), rtol=1e-3)


def test_all_tasks_together_own_one_bit_of_a_slot_at_most(store):
    for words in allocation(store).values():
        assert max(words.allocated) == 1
        assert len(words.by_owner) > 1, "every task used slots that nobody had used"


def test_norms_hold_the_statistics_and_nothing_trained(store):
    """gain = 1 / sqrt(var + eps) > 0 and shift = -mean * gain of the task's data, computed here layer by layer."""
    data = samples.make_data("a", TASKS["a"])
    model = masked_model(samples.factory, samples.graph(), store.weights("a"))
    seen = []
    handle = model.bn1.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        model((data.train.x.float() / 255 - 0.5) / 0.25)
    handle.remove()
    values = seen[0].transpose(0, 1).flatten(1).double()
    gain = 1 / (values.var(1) + model.bn1.eps).sqrt()
    norm = store.weights("a").norms["bn1"]
    np.testing.assert_allclose(norm.gain, gain.numpy(), rtol=0.02)
    np.testing.assert_allclose(norm.shift, (-values.mean(1) * gain).numpy(), rtol=0.02, atol=0.02)
