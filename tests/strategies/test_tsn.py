"""`tsn` keeps to the plan: units, densities, bit widths, and codebooks of own weights alone."""

import learning_samples as samples
import numpy as np
import pytest

from tsn_toolkit.masks.top import keep_count
from tsn_toolkit.store.store import Store


@pytest.fixture
def store(tmp_path, request):
    return Store.create(tmp_path / "store", trunk=samples.trunk(request.param), graph=samples.graph(), recipe={})


def inside(result, layer):
    """Number of slots of a layer inside the units that stay."""
    sizes = {"conv1": 4, "conv2": 8, "conv4": 8} | {name: int(mask.sum()) for name, mask in result.unit_masks.items()}
    rows = {"conv1": "conv1", "conv2": "conv2", "conv3": "conv2", "conv4": "conv4"}
    columns = {"conv1": None, "conv2": "conv1", "conv3": "conv2", "conv4": "conv2"}
    return 9 * sizes[rows[layer]] * (sizes[columns[layer]] if columns[layer] else 1)


@pytest.mark.parametrize("store", ["seed", "checkpoint"], indirect=True)
def test_units_and_bit_widths_are_the_plan_s(store):
    result = samples.learn("tsn", samples.make_context(store, samples.make_data()))
    assert {name: int(mask.sum()) for name, mask in result.unit_masks.items()} == {"conv1": 3, "conv2": 6, "conv4": 6}
    for codes in result.layers.values():
        assert codes.bit_width == 3 and len(codes.codebook) == 8
        assert len(codes.codes) == (codes.states == 2).sum()


@pytest.mark.parametrize("store", ["seed"], indirect=True)
def test_over_a_seed_trunk_every_layer_uses_the_density_asked_for(store):
    first = samples.learn("tsn", samples.make_context(store, samples.make_data()))
    store.commit(first, {})
    context = samples.make_context(store, samples.make_data("second", (3, 4, 5)), parent="first")
    for result in (first, samples.learn("tsn", context)):
        for name, codes in result.layers.items():
            slots = inside(result, name)
            assert (codes.states != 0).sum() == keep_count(0.4, slots) and abs((codes.states != 0).sum() / slots - 0.4) <= 1 / slots
    assert not any((codes.states == 1).any() for codes in first.layers.values()), "nobody to inherit from"


@pytest.mark.parametrize("store", ["checkpoint"], indirect=True)
def test_over_a_trained_trunk_the_slots_owned_add_up_to_the_density_and_all_others_are_reused(store):
    context = samples.make_context(store, samples.make_data(), plan=samples.plan(density=0.2))
    result = samples.learn("tsn", context)
    slots = {name: inside(result, name) for name in result.layers}
    owned = sum(int((codes.states == 2).sum()) for codes in result.layers.values())
    assert owned == sum(keep_count(0.2, count) for count in slots.values())
    for name, codes in result.layers.items():
        assert (codes.states != 0).sum() == slots[name]
        kept = codes.scale != 0
        np.testing.assert_array_equal(codes.scale[kept], context.inherited[name].scale[kept])


@pytest.mark.parametrize("store", ["checkpoint"], indirect=True)
def test_a_shared_layer_is_left_to_the_parent(store):
    plan = samples.plan(layer_overrides={"conv3": {"encoding": "shared"}})
    result = samples.learn("tsn", samples.make_context(store, samples.make_data(), plan=plan))
    assert set(result.layers) == {"conv1", "conv2", "conv4"}
    store.commit(result, {})
    kept = np.ix_(result.unit_masks["conv2"], result.unit_masks["conv2"])
    np.testing.assert_array_equal(store.weights("first").q["conv3"][kept], store.frozen_view("trunk")["conv3"].q[kept])


@pytest.mark.parametrize("store", ["seed", "checkpoint"], indirect=True)
def test_integers_stay_within_the_code_that_the_target_allows(store):
    context = samples.make_context(store, samples.make_data(), plan=samples.plan(max_code=20, bit_width=8))
    for codes in samples.learn("tsn", context).layers.values():
        assert np.abs(codes.codebook.astype(int)).max() <= 20


@pytest.mark.parametrize("store", ["seed"], indirect=True)
def test_foldable_gains_stay_positive(store):
    result = samples.learn("tsn", samples.make_context(store, samples.make_data(), learning_rate=1.0), min_gain=0.05)
    for name, group in (("bn1", "conv1"), ("bn2", "conv2"), ("bn3", "conv2"), ("bn4", "conv4")):
        assert (result.norms[name].gain[result.unit_masks[group]] > 0).all()
