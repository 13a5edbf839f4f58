"""How many more tasks fit: by hand, and in what `inspect` says of a store."""

import store_samples as samples

from tsn_toolkit.store.allocation import LayerAllocation, allocation
from tsn_toolkit.store.capacity import Capacity, capacity
from tsn_toolkit.store.inspect import inspect_store
from tsn_toolkit.store.store import Store


def test_by_hand():
    """Wide: 100 slots of 32 bits, 3,200 - 760 free, 120 per task of the last three; narrow: 10 slots, 320 - 140 free, 40 per task."""
    layers = {
        "wide": LayerAllocation(100, 32, {4: 60, 8: 40}, {"trunk": 300, "a": 100, "b": 160, "c": 120, "d": 80}),
        "narrow": LayerAllocation(10, 32, {14: 10}, {"a": 20, "b": 40, "c": 80}),
    }
    widths = {task: {"wide": 4, "narrow": 4} for task in "abc"} | {"d": {"wide": 2, "narrow": 0}}
    found = capacity(layers, widths, ("a", "b", "c", "d"))
    assert found == Capacity(("b", "c", "d"), 160.0, 2440 + 180, "narrow", 4, (32 - 14) // 4)
    assert (180 // 40, 2440 // 120) == (4, 20)


def test_without_tasks_or_bits_taken_there_is_no_estimate():
    layers = {"wide": LayerAllocation(100, 32, {0: 100}, {})}
    assert capacity(layers, {}, ()) == Capacity((), 0.0, 3200, "", None, None)
    assert capacity(layers, {"a": {"wide": 0}}, ("a",)).more_tasks is None


def test_inspect_says_it(tmp_path):
    graph = samples.make_graph()
    store = Store.create(tmp_path / "store", trunk=samples.make_trunk(graph), graph=graph, recipe=samples.RECIPE)
    for index, parent in enumerate(["trunk", "a"]):
        store.commit(samples.make_task(store, "ab"[index], parent, seed=index, bit_width=4), {})
    room, layers = inspect_store(store)["capacity"], allocation(store)
    assert room["like"] == ("a", "b") and room["free_bits"] == sum(layer.free_bits for layer in layers.values())
    means = {name: (layer.by_owner.get("a", 0) + layer.by_owner.get("b", 0)) / 2 for name, layer in layers.items()}
    assert room["bits_per_task"] == sum(means.values()) and room["more_tasks"] == min(layers[name].free_bits // mean for name, mean in means.items())
