"""`sparcl`: with all parts off it is the replay method to the bit; each part does what it says and saves operations."""

import learning_samples as samples
import numpy as np
import pytest

from tsn_toolkit.store.store import Store

OFF = {"sparsity": 0.0, "keep_gradients": 1.0, "remove": 0.0}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """One task, learned by DER++ without any of the parts."""
    store = Store.create(tmp_path_factory.mktemp("sparcl") / "store", trunk=samples.trunk("seed"), graph=samples.graph(), recipe={})
    store.commit(samples.learn("derpp", samples.make_context(store, samples.make_data())), {})
    return store


def second(store, strategy="sparcl", **options):
    context = samples.make_context(
        store, samples.make_data("second", (5, 3, 4)), parent="first", revision=store.revision("first"), epochs=options.pop("epochs", 2)
    )
    return samples.learn(strategy, context, **options)


@pytest.mark.parametrize("replay", ["er", "der", "derpp"])
def test_without_its_parts_it_is_the_replay_method(store, replay):
    own = {"er": {"replay_weight": 0.5}, "der": {"alpha": 0.1}, "derpp": {}}[replay]
    plain, sparse = second(store, replay, **own), second(store, replay=replay, **OFF)
    for name, codes in plain.layers.items():
        np.testing.assert_array_equal(codes.codes, sparse.layers[name].codes)
        np.testing.assert_array_equal(codes.scale, sparse.layers[name].scale)
    np.testing.assert_array_equal(plain.head.codes, sparse.head.codes)
    for name, array in plain.revision.memory.items():
        np.testing.assert_array_equal(array, sparse.revision.memory[name])


def test_masked_weights_are_zero_in_the_store_too(store):
    result = second(store, sparsity=0.75)
    for name, codes in result.layers.items():
        active = (codes.states != 0).sum()
        assert active == (36 if name == "conv1" else round(0.25 * codes.states.size))
    dense = second(store, **OFF)
    assert all((codes.states != 0).all() for codes in dense.layers.values())
    assert len(store.encode(result, {})) < len(store.encode(dense, {}))


def test_every_part_saves_operations(store):
    """Dense: 5 steps of 32 examples and two replayed batches of 32, two epochs, by the layers' own numbers."""
    macs = {layer.name: layer.macs for layer in samples.graph().layers}
    macs["head"] = macs["head"] * 6 // 6
    passes = {name: 2 if name == "conv1" else 3 for name in macs}
    dense = 2 * 5 * (32 + 2 * 32) * sum(2 * passes[name] * count for name, count in macs.items())
    counted = second(store, **OFF).validation["training_flops"]
    assert counted == dense
    for part in ({"sparsity": 0.75}, {"keep_gradients": 0.2}, {"remove": 0.5, "epochs": 6}):
        base = counted * part.get("epochs", 2) / 2
        assert second(store, **{**OFF, **part}).validation["training_flops"] < base


def test_removed_examples_leave_fewer_steps(store):
    """160 examples in batches of 32; 80 leave in four stages of 20, before epochs 1 to 4: 5, 4, 3, 3, 2, 2 steps."""
    steps = []
    context = samples.make_context(
        store,
        samples.make_data("second", (5, 3, 4)),
        parent="first",
        revision=store.revision("first"),
        epochs=6,
        progress=lambda name, done, of: steps.append((done, of)),
    )
    samples.learn("sparcl", context, **{**OFF, "remove": 0.5})
    per_epoch = [of // 6 for _, of in steps]
    assert [per_epoch.count(count) // count for count in (5, 4, 3, 2)] == [1, 1, 2, 2]
