"""`packnet`: who owns which share of a layer, and that everybody uses all that came before."""

import learning_samples as samples
import numpy as np
import pytest
import torch
from torch import nn

from tsn_toolkit.masks.top import keep_count
from tsn_toolkit.parts.subnet_weight import SubnetWeight
from tsn_toolkit.parts.wrapping import attach_
from tsn_toolkit.store.store import Store
from tsn_toolkit.strategies.packnet import prune_free_

PRUNED, REUSE, OWN = 0, 1, 2


def test_each_task_owns_its_share_of_what_was_free(tmp_path):
    """keep = 1/4: of n slots the tasks own n/4, then a quarter of the rest, and so on, each rounded."""
    store = Store.create(tmp_path / "store", trunk=samples.trunk("seed"), graph=samples.graph(), recipe={})
    parent, owned = "trunk", {}
    for name, classes in (("a", (0, 1, 2)), ("b", (5, 3, 4)), ("c", (1, 3, 0))):
        context = samples.make_context(store, samples.make_data(name, classes), parent=parent, epochs=2)
        store.commit(samples.learn("packnet", context, keep=0.25), {})
        for layer, states in store.states(name).items():
            before = owned.get(layer, np.zeros(states.shape, bool))
            assert (states == OWN).sum() == keep_count(0.25, int((~before).sum()))
            np.testing.assert_array_equal(states == REUSE, before)
            owned[layer] = before | (states == OWN)
        parent = name
    for mask in owned.values():
        assert mask.mean() == pytest.approx(1 - 0.75**3, abs=2 / mask.size)


def test_the_largest_free_weights_survive():
    model = nn.Sequential(nn.Linear(4, 2, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[9.0, -0.1, 0.2, -0.7], [0.3, -0.3, 8.0, 0.6]]))
    present = torch.tensor([[True, False, False, False], [False, False, True, False]])
    wrapper = SubnetWeight(torch.zeros(2, 4), present, torch.ones(2), rule="select", density=1.0, bit_width=8, max_code=127)
    attach_(model[0], wrapper)
    prune_free_(model, 0.5)  # of the 6 free ones 0.7, 0.6 and the first 0.3
    assert wrapper.mask.tolist() == [[True, False, False, True], [True, False, True, True]]


def test_a_layer_without_free_slots_keeps_what_it_inherits():
    model = nn.Sequential(nn.Linear(3, 2, bias=False))
    wrapper = SubnetWeight(torch.ones(2, 3), torch.ones(2, 3).bool(), torch.ones(2), rule="select", density=1.0, bit_width=8, max_code=127)
    attach_(model[0], wrapper)
    prune_free_(model, 0.5)
    assert wrapper.mask.all() and not wrapper.own_slots().any()
