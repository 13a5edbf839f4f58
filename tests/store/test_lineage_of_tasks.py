"""What later commits leave alone (I1), what comes back (I2), and that the bytes depend on the results alone (I10)."""

import numpy as np
import pytest
import store_samples as samples

from tsn_toolkit.errors import StoreError
from tsn_toolkit.store.store import Store


@pytest.fixture
def store(tmp_path):
    graph = samples.make_graph()
    return Store.create(tmp_path / "store", trunk=samples.make_trunk(graph), graph=graph, recipe=samples.RECIPE)


def contents(folder):
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def grow(store):
    """Six tasks: a chain of five (more ancestors than the context has), one with a shared layer, one beside the chain."""
    results = []
    for index, parent in enumerate(["trunk", "t0", "t1", "t2", "t3", "trunk"]):
        results.append(samples.make_task(store, f"t{index}", parent, seed=index, shared=("conv2",) if index == 2 else ()))
        store.commit(results[-1], samples.RECIPE)
    return results


def slow_q(results, trunk, name, layer):
    """The definition, slot by slot: the nearest owner in the chain."""
    by_name = {result.name: result for result in results}
    result = by_name[name]
    chain = []
    while name != "trunk":
        chain.append(by_name[name])
        name = by_name[name].parent

    def dense(codes):
        values = np.zeros(codes.states.shape, int)
        values[codes.states == samples.OWN] = codes.codebook[codes.codes]
        return values

    owners = [owner.layers[layer] for owner in chain if layer in owner.layers] + [trunk.layers[layer]]
    values = [dense(codes) for codes in owners]
    q = np.zeros(trunk.layers[layer].states.shape, int)
    kept = samples.expand(result.unit_masks, samples.make_graph())[layer]
    for slot in np.ndindex(q.shape):
        used = result.layers[layer].states[slot] != samples.PRUNED if layer in result.layers else kept[slot]
        if used:
            q[slot] = next(value[slot] for codes, value in zip(owners, values) if codes.states[slot] == samples.OWN)
    return q


def test_every_task_reads_what_the_definition_says(store):
    results = grow(store)
    opened = Store.open(store.path)
    for result in results:
        weights = opened.weights(result.name)
        for layer in samples.SHAPES:
            np.testing.assert_array_equal(weights.q[layer], slow_q(results, store.trunk(), result.name, layer), err_msg=f"{result.name} {layer}")


def test_what_was_committed_comes_back(store):
    results = grow(store)
    opened = Store.open(store.path)
    for result in results:
        weights, states = opened.weights(result.name), opened.states(result.name)
        for name, codes in result.layers.items():
            np.testing.assert_array_equal(states[name], codes.states)
        assert weights.unit_masks.keys() == result.unit_masks.keys()
        for name, mask in result.unit_masks.items():
            np.testing.assert_array_equal(weights.unit_masks[name], mask)
        np.testing.assert_array_equal(weights.norms["bn1"].gain, result.norms["bn1"].gain)
        np.testing.assert_array_equal(weights.norms["bn1"].shift, result.norms["bn1"].shift)
        np.testing.assert_array_equal(weights.biases["conv2"], result.biases["conv2"])
        for field in ("codes", "scale", "bias"):
            np.testing.assert_array_equal(getattr(weights.head, field), getattr(result.head, field))
        assert dict(weights.ranges) == dict(result.ranges) and weights.classes == result.classes
        assert opened.validation(result.name) == result.validation
    trunk = opened.trunk()
    expected = samples.make_trunk(samples.make_graph())
    assert (trunk.kind, trunk.seed) == ("checkpoint", 7)
    for name, codes in expected.layers.items():
        for field in ("states", "codes", "codebook", "scale"):
            np.testing.assert_array_equal(getattr(trunk.layers[name], field), getattr(codes, field))
    np.testing.assert_array_equal(trunk.head.codes, expected.head.codes)


def test_scale_of_live_units_is_the_tasks_and_of_dead_ones_the_parents(store):
    result = samples.make_task(store, "a")
    store.commit(result, {})
    kept = result.unit_masks["conv1"]
    assert not kept.all()
    expected = np.where(kept, result.layers["conv1"].scale, samples.make_trunk(samples.make_graph()).layers["conv1"].scale)
    np.testing.assert_array_equal(Store.open(store.path).weights("a").scale["conv1"], expected)


def test_later_commits_change_no_earlier_part_and_no_decoded_integer(store):
    store.commit(samples.make_task(store, "a"), {})
    before, digest = contents(store.path), store.codes_hash("a")
    store.commit(samples.make_task(store, "b", "a", seed=1), {})
    store.commit(samples.make_task(store, "c", seed=2), {})
    after = contents(store.path)
    assert {path: data for path, data in after.items() if path in before and path != "manifest.json"} == {
        path: data for path, data in before.items() if path != "manifest.json"
    }
    opened = Store.open(store.path)
    assert opened.codes_hash("a") == digest
    assert len({opened.codes_hash(name) for name in "abc"}) == 3


def test_same_results_give_the_same_folder(store, tmp_path):
    grow(store)
    graph = samples.make_graph()
    other = Store.create(tmp_path / "other", trunk=samples.make_trunk(graph), graph=graph, recipe=samples.RECIPE)
    for index, parent in enumerate(["trunk", "t0", "t1", "t2", "t3", "trunk"]):
        other = Store.open(other.path)  # a fresh process per task changes nothing
        shared = ("conv2",) if index == 2 else ()
        other.commit(samples.make_task(other, f"t{index}", parent, seed=index, shared=shared), dict(reversed(samples.RECIPE.items())))
    assert contents(other.path) == contents(store.path)


def test_loading_reads_the_chain_only(store):
    grow(store)
    opened = Store.open(store.path)
    for name in ("000-t0", "001-t1", "002-t2", "003-t3", "004-t4"):
        (store.path / f"tasks/{name}.safetensors").unlink()
    assert opened.weights("t5").name == "t5"
    with pytest.raises(StoreError, match="tasks/000-t0.safetensors"):
        opened.weights("t4")


def test_recipes_and_chain(store):
    store.commit(samples.make_task(store, "a"), {"seed": True, "new": [1, {"x": None}]})
    store.commit(samples.make_task(store, "b", "a", seed=1), samples.RECIPE)
    opened = Store.open(store.path)
    assert opened.recipe("trunk") == samples.RECIPE and opened.recipe("b") == samples.RECIPE
    assert opened.recipe("a") == {"seed": True, "new": [1, {"x": None}]}
    assert opened.chain("b") == ("trunk", "a", "b") and opened.chain("trunk") == ("trunk",)
    assert [(e.name, e.parent, e.index) for e in opened.entries] == [("a", "trunk", 0), ("b", "a", 1)]
    assert opened.next_index == 2 and opened.fingerprint == "fingerprint"


def test_seed_trunk(tmp_path):
    store = Store.create(tmp_path / "store", trunk=samples.SEED_TRUNK, graph=samples.make_graph(), recipe={})
    assert store.frozen_view("trunk")["fc"].scale is None and not store.frozen_view("trunk")["fc"].present.any()
    with pytest.raises(StoreError, match="layer `fc` is shared, but neither"):
        store.commit(samples.make_task(store, "a", shared=("fc",)), {})
    result = samples.make_task(store, "a")
    store.commit(result, {})
    store.commit(samples.make_task(store, "b", "a", seed=1, shared=("fc",)), {})
    opened = Store.open(store.path)
    assert (opened.trunk().kind, opened.trunk().seed, opened.trunk().head) == ("seed", 7, None)
    np.testing.assert_array_equal(opened.weights("b").scale["fc"], opened.weights("a").scale["fc"])
    np.testing.assert_array_equal(opened.weights("a").norms["bn1"].gain, result.norms["bn1"].gain)
