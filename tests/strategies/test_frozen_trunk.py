"""`frozen_trunk` shares everything: the task's part holds a head, and norms only if they are trained."""

import learning_samples as samples
import numpy as np
import pytest

from tsn_toolkit.errors import RecipeError
from tsn_toolkit.store.store import Store


@pytest.fixture
def store(tmp_path):
    return Store.create(tmp_path / "store", trunk=samples.trunk("checkpoint"), graph=samples.graph(), recipe={})


@pytest.mark.parametrize("norms", [False, True])
def test_weights_are_the_trunk_s_and_norms_change_only_when_asked(store, norms):
    result = samples.learn("frozen_trunk", samples.make_context(store, samples.make_data()), norms=norms)
    assert result.layers == {} and result.unit_masks == {}
    store.commit(result, {})
    weights, trunk = store.weights("first"), store.frozen_view("trunk")
    for name, q in weights.q.items():
        np.testing.assert_array_equal(q, trunk[name].q)
        np.testing.assert_array_equal(weights.scale[name], trunk[name].scale)
    for name, norm in samples.trunk("checkpoint").norms.items():
        assert np.array_equal(result.norms[name].gain, norm.gain) != norms
        assert np.array_equal(result.norms[name].shift, norm.shift) != norms


def test_only_the_head_and_nothing_else_costs_bytes(store):
    entry = store.commit(samples.learn("frozen_trunk", samples.make_context(store, samples.make_data())), {})
    head = 3 * 32 + 3 * 2 * 2 + 2
    vectors = 2 * 2 * (4 + 8 + 8 + 8) + 8
    assert head <= entry.size_bytes <= head + vectors + 3000  # the rest is the file's description


def test_a_seed_trunk_is_refused(tmp_path):
    store = Store.create(tmp_path / "seed", trunk=samples.trunk("seed"), graph=samples.graph(), recipe={})
    with pytest.raises(RecipeError, match="`frozen_trunk` needs a trained trunk"):
        samples.learn("frozen_trunk", samples.make_context(store, samples.make_data()))
