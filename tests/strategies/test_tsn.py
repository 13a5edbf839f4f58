"""`tsn` keeps to the plan: units, densities, bit widths, and codebooks of own weights alone."""

import functools

import learning_samples as samples
import numpy as np
import pytest

from tsn_toolkit.contracts import LayerCodes, LayerPlanes
from tsn_toolkit.extract import masked_model
from tsn_toolkit.masks.top import keep_count
from tsn_toolkit.parts.slots import layer_integers
from tsn_toolkit.store.store import Store
from tsn_toolkit.trainer.loop import evaluate


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


FIRST, SECOND = samples.make_data(), samples.make_data("second", (3, 4, 5))
OPTIONS = {
    "plain": ({}, {}),
    "erk": ({"density_by_layer": "erk", "density": 0.2}, {}),
    "learned": ({"density_by_layer": "learned", "density": 0.2}, {}),
    "blocks": ({"granularity": "block(4)"}, {}),
    "n of m": ({"granularity": "2:4"}, {}),
    "units": ({"granularity": "unit", "bit_width": 2}, {}),
    "planes": ({"encoding": "planes", "units_keep": 1.0}, {}),
    "mixed": (
        {"units_keep": 1.0, "density_by_layer": "learned", "layer_overrides": {"conv3": {"encoding": "planes"}, "conv4": {"granularity": "1:3"}}},
        {},
    ),
    "fresh": ({}, {"fresh_share": 1.0}),
    "reuse": ({}, {"fresh_share": 1.0, "reuse_bonus": 2.0}),
    "refined": ({}, {"refine_bits": 2, "refine_share": 0.3}),
    "changed": ({"child_overrides": {"*": {"density": 0.2}, "conv4": {"granularity": "block(4)", "bit_width": 2}}}, {}),
    "changed planes": ({"units_keep": 1.0, "child_overrides": {"conv3": {"encoding": "planes"}, "conv2": {"density": 0.1}}}, {}),
}


CASES = [(name, "seed") for name in OPTIONS] + [(name, "checkpoint") for name in ("learned", "blocks", "planes", "mixed")]


def learn_over(store, data, parent, name):
    settings, options = OPTIONS[name]
    return samples.learn("tsn", samples.make_context(store, data, parent=parent, plan=samples.plan(**settings), epochs=2), **options)


@pytest.fixture(scope="module")
def two_tasks(tmp_path_factory):
    """(name, kind) -> a store with two tasks, the second a child of the first, and their results; learned once."""

    @functools.cache
    def learned(name, kind):
        store = Store.create(tmp_path_factory.mktemp("options") / "store", trunk=samples.trunk(kind), graph=samples.graph(), recipe={})
        results = []
        for data, parent in ((FIRST, "trunk"), (SECOND, "first")):
            results.append(learn_over(store, data, parent, name))
            store.commit(results[-1], {})
        return Store.open(store.path), results

    return learned


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_every_option_is_stored_as_it_was_validated(name, kind, two_tasks):
    store, results = two_tasks(name, kind)
    for result, data in zip(results, (FIRST, SECOND), strict=True):
        model = masked_model(samples.factory, samples.graph(), store.weights(result.name))
        loss, accuracy = evaluate(model, data.validation, data, samples.CPU)
        assert accuracy == result.validation["accuracy"] and loss == pytest.approx(result.validation["loss"], rel=1e-6)
        for layer, stored in result.layers.items():
            inherited = store.frozen_view(result.parent)[layer].q
            np.testing.assert_array_equal(store.weights(result.name).q[layer], layer_integers(stored, inherited) * kept(result, layer))
    assert kind == "checkpoint" or max(result.validation["accuracy"] for result in results) > 0.45, "three classes: no better than guessing"


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_every_option_gives_the_same_bytes_again(name, kind, two_tasks, tmp_path):
    store, (first, _) = two_tasks(name, kind)
    other = Store.create(tmp_path / "store", trunk=samples.trunk(kind), graph=samples.graph(), recipe={})
    other.commit(first, {})
    other.commit(learn_over(other, SECOND, "first", name), {})
    for entry in store.entries:
        assert (store.path / entry.path).read_bytes() == (other.path / entry.path).read_bytes()


def kept(result, layer):
    """Int8 mask of the slots inside the units that stay."""
    slots = samples.graph().layer(layer).shape
    rows, columns = {"conv1": ("conv1", None), "conv2": ("conv2", "conv1"), "conv3": ("conv2", "conv2"), "conv4": ("conv4", "conv2")}[layer]
    mask = np.ones(slots, np.int8)
    if rows in result.unit_masks:
        mask[~result.unit_masks[rows]] = 0
    if columns in result.unit_masks:
        mask[:, ~result.unit_masks[columns]] = 0
    return mask


def test_options_do_what_they_say(two_tasks):
    """Over a seed trunk: what the layers are made of."""
    made = {name: two_tasks(name, "seed")[1] for name in OPTIONS}
    for codes in made["blocks"][1].layers.values():
        assert codes.granularity == "block(4)"
    assert {name: type(layer) for name, layer in made["planes"][1].layers.items()} == {
        "conv1": LayerCodes,
        "conv2": LayerCodes,
        "conv3": LayerPlanes,
        "conv4": LayerPlanes,
    }
    assert isinstance(made["mixed"][1].layers["conv3"], LayerPlanes) and made["mixed"][1].layers["conv4"].granularity == "1:3"

    def common(first, second):
        """Fraction of the first task's slots that the second uses too."""
        used = {name: (first.layers[name].states != 0, second.layers[name].states != 0) for name in first.layers}
        return sum((a & b).sum() for a, b in used.values()) / sum(a.sum() for a, _ in used.values())

    assert min(common(*made["reuse"]), common(*made["plain"])) > common(*made["fresh"]) + 0.1
    refined = {name: (codes.states == 3).sum() for name, codes in made["refined"][1].layers.items()}
    assert sum(refined.values()) > 0 and all(made["refined"][1].layers[name].refinement.bit_width == 2 for name, count in refined.items() if count)
    assert all(codes.refinement is None for codes in made["refined"][0].layers.values()), "nothing to refine over a seed"
    counts = [{name: (codes.states != 0).sum() for name, codes in result.layers.items()} for result in made["learned"]]
    planned = [keep_count(layer.density, inside(made["learned"][0], layer.name)) for layer in samples.plan(**OPTIONS["learned"][0]).layers]
    assert [sum(count.values()) for count in counts] == [sum(planned)] * 2
    assert list(counts[0].values()) != planned and counts[0] != counts[1], "each task divides the budget by its own scores"


@pytest.mark.parametrize("name", ["changed", "changed planes"])
def test_a_child_keeps_what_its_parent_uses_and_owns_what_the_plan_says(name, two_tasks):
    store, (first, second) = two_tasks(name, "seed")
    parent = store.weights("first").q
    on_used = 0
    for layer in samples.plan(**OPTIONS[name][0]).child_layers:
        codes = second.layers[layer.name]
        if layer.encoding == "planes":
            assert isinstance(codes, LayerPlanes) and isinstance(first.layers[layer.name], LayerCodes)
            continue
        alive = kept(second, layer.name) != 0
        used = (parent[layer.name] != 0) & alive
        assert np.isin(codes.states[used], (1, 2)).all() and (codes.states[~used] != 1).all() and not codes.states[~alive].any()
        asked = keep_count(layer.density, int(alive.sum()))
        own = int((codes.states == 2).sum())
        assert own == asked if layer.granularity == "element" else abs(own - asked) <= 4 * len(codes.states)
        assert (codes.granularity, codes.bit_width) == (layer.granularity, layer.bit_width)
        on_used += int((codes.states[used] == 2).sum())
    assert on_used > 0, "slots that the parent uses may change too"


@pytest.mark.parametrize("store", ["checkpoint"], indirect=True)
def test_uniform_and_learned_divide_a_trained_trunk_s_budget_differently(store):
    results = {
        rule: samples.learn("tsn", samples.make_context(store, samples.make_data(), plan=samples.plan(density=0.2, density_by_layer=rule)))
        for rule in ("uniform", "learned")
    }
    owned = {rule: {name: int((codes.states == 2).sum()) for name, codes in result.layers.items()} for rule, result in results.items()}
    assert owned["uniform"] == {name: keep_count(0.2, inside(results["uniform"], name)) for name in owned["uniform"]}
    assert owned["learned"] != owned["uniform"]
