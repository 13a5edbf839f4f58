"""What later commits leave alone (I1), what comes back (I2), and that the bytes depend on the results alone (I10)."""

import numpy as np
import pytest
import store_samples as samples

from tsn_toolkit.contracts import LayerCodes, LayerPlanes
from tsn_toolkit.errors import StoreError
from tsn_toolkit.store.store import Store


@pytest.fixture
def store(tmp_path):
    graph = samples.make_graph()
    return Store.create(tmp_path / "store", trunk=samples.make_trunk(graph), graph=graph, recipe=samples.RECIPE)


def contents(folder):
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


PARENTS = ["trunk", "t0", "t1", "t2", "t3", "trunk", "t4", "t6", "t5"]
EXTRAS = {
    2: {"shared": ("conv2",)},
    4: {"refine_bits": 3},
    6: {"planes": ("conv1", "fc")},
    7: {"refine_bits": 1, "shared": ("fc",)},
    8: {"planes": ("fc",)},
}


def next_task(store):
    index = store.next_index
    return samples.make_task(store, f"t{index}", PARENTS[index], seed=index, **EXTRAS.get(index, {}))


def grow(store):
    """Nine tasks: a chain of seven and one of two, with shared layers, refinements and planes on the way."""
    results = []
    for _ in PARENTS:
        results.append(next_task(store))
        store.commit(results[-1], samples.RECIPE)
    return results


def slow_view(by_name, trunk, name, layer, slot):
    """The definition, slot by slot: the nearest owner in the chain, and what it refines. None where nobody owns the slot."""
    own = (trunk if name == "trunk" else by_name[name]).layers.get(layer)
    above = None if name == "trunk" else slow_view(by_name, trunk, by_name[name].parent, layer, slot)
    if own is None:
        return above
    if isinstance(own, LayerPlanes):
        if not samples.expand(by_name[name].unit_masks, samples.make_graph())[layer][slot]:
            return above
        return max(-127, min(127, (above or 0) + int(own.gain[slot[0]]) * (1 if own.signs[slot] else -1)))
    flat = np.ravel_multi_index(slot, own.states.shape)
    before = own.states.reshape(-1)[:flat]
    if own.states[slot] == samples.OWN:
        return int(own.codebook[own.codes[(before == samples.OWN).sum()]])
    if own.states[slot] == samples.REFINE:
        residual = int(own.refinement.codebook[own.refinement.codes[(before == samples.REFINE).sum()]])
        return max(-127, min(127, above + residual))
    return above


def slow_q(results, trunk, name, layer):
    by_name = {result.name: result for result in results}
    own = by_name[name].layers.get(layer)
    kept = samples.expand(by_name[name].unit_masks, samples.make_graph())[layer]
    q = np.zeros(kept.shape, int)
    for slot in np.ndindex(q.shape):
        used = own.states[slot] != samples.PRUNED if isinstance(own, LayerCodes) else kept[slot]
        q[slot] = slow_view(by_name, trunk, name, layer, slot) if used else 0
    return q


def test_every_task_reads_what_the_definition_says(store):
    results, trunk = grow(store), store.trunk()
    opened = Store.open(store.path)
    for result in results:
        weights = opened.weights(result.name)
        dense = opened.dense_weights(result.name)
        for layer in samples.SHAPES:
            expected = slow_q(results, trunk, result.name, layer)
            np.testing.assert_array_equal(weights.q[layer], expected, err_msg=f"{result.name} {layer}")
            scale = weights.scale[layer].reshape(-1, *([1] * (expected.ndim - 1)))
            np.testing.assert_array_equal(dense[layer], scale * expected.astype(np.float32))
            assert dense[layer].dtype == np.float32


def test_what_was_committed_comes_back(store):
    results = grow(store)
    opened = Store.open(store.path)
    for result in results:
        weights, states = opened.weights(result.name), opened.states(result.name)
        for name, own in result.layers.items():
            if isinstance(own, LayerCodes):
                np.testing.assert_array_equal(states[name], own.states)
            else:
                held = opened.held(result.name)[name].own
                np.testing.assert_array_equal(held.signs, own.signs)
                np.testing.assert_array_equal(held.gain, own.gain)
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
    for _ in PARENTS:
        other = Store.open(other.path)  # a fresh process per task changes nothing
        other.commit(next_task(other), dict(reversed(samples.RECIPE.items())))
    assert contents(other.path) == contents(store.path)


def test_loading_reads_the_chain_only(store):
    grow(store)
    opened = Store.open(store.path)
    for name in ("000-t0", "001-t1", "002-t2", "003-t3", "004-t4", "006-t6", "007-t7"):
        (store.path / f"tasks/{name}.safetensors").unlink()
    assert opened.weights("t5").name == "t5"
    with pytest.raises(StoreError, match="tasks/000-t0.safetensors"):
        opened.weights("t4")
    with pytest.raises(StoreError, match="tasks/000-t0.safetensors"):
        Store.open(store.path)
    unchecked = Store.open(store.path, check=False)
    assert unchecked.codes_hash("t8") == opened.codes_hash("t8")
    part = store.path / "tasks/008-t8.safetensors"
    part.write_bytes(part.read_bytes()[:-1] + b"?")
    with pytest.raises(StoreError, match="tasks/008-t8.safetensors.*its SHA-256 is"):
        Store.open(store.path, check=False).weights("t8")


def test_recipes_and_chain(store):
    store.commit(samples.make_task(store, "a"), {"seed": True, "new": [1, {"x": None}]})
    store.commit(samples.make_task(store, "b", "a", seed=1), samples.RECIPE)
    nested = {"seed": 3, "plan": {"density": 0.5, "deep": {"x": 1}}}
    store.commit(samples.make_task(store, "c", "b", seed=2), nested)
    opened = Store.open(store.path)
    assert opened.recipe("trunk") == samples.RECIPE and opened.recipe("b") == samples.RECIPE and opened.recipe("c") == nested
    assert opened.part("c").metadata["recipe"] == {"inside": {"plan": {"set": {"deep": {"x": 1}}}}}
    assert opened.recipe("a") == {"seed": True, "new": [1, {"x": None}]}
    assert opened.chain("b") == ("trunk", "a", "b") and opened.chain("trunk") == ("trunk",)
    assert [(e.name, e.parent, e.index) for e in opened.entries] == [("a", "trunk", 0), ("b", "a", 1), ("c", "b", 2)]
    assert opened.next_index == 3 and opened.fingerprint == "fingerprint"


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
