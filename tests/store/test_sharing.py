"""Sharing by layer and by unit against slot by slot counting."""

import numpy as np
import store_samples as samples

from tsn_toolkit.store.sharing import sharing
from tsn_toolkit.store.store import Store
from tsn_toolkit.vocabulary import TRUNK


def test_slot_by_slot(tmp_path):
    """Two lineages: b inherits from a, c from the trunk."""
    graph = samples.make_graph()
    store = Store.create(tmp_path / "store", trunk=samples.make_trunk(graph), graph=graph, recipe=samples.RECIPE)
    for index, parent in enumerate(["trunk", "a", "trunk"]):
        store.commit(samples.make_task(store, "abc"[index], parent, seed=index), {})
    found = sharing(store)
    assert found.tasks == ("a", "b", "c") and found.owners == (TRUNK, "a", "b", "c")
    reads = {}  # task -> {(layer, slot): owner of the value}
    for task in found.tasks:
        chain, reads[task] = store.chain(task), {}
        for name, states in store.states(task).items():
            for slot in map(tuple, np.argwhere(states != samples.PRUNED)):
                owners = [owner for owner in chain[1:] if store.states(owner)[name][slot] >= samples.OWN]
                reads[task][name, slot] = owners[-1] if owners else TRUNK
    for row, task in enumerate(found.tasks):
        mine = reads[task]
        assert found.by_owner[row].tolist() == [list(mine.values()).count(owner) / len(mine) for owner in found.owners]
        same = [sum(reads[other].get(place) == owner for place, owner in mine.items()) / len(mine) for other in found.tasks]
        assert found.with_task[row].tolist() == same and same[row] == 1.0 and 0 < min(same) < 1
        for name, shape in samples.SHAPES.items():
            here = {place: owner for place, owner in mine.items() if place[0] == name}
            alone = [place for place, owner in here.items() if all(reads[o].get(place) != owner for o in found.tasks if o != task)]
            assert found.layers[name]["used"][row] == len(here) / np.prod(shape)
            assert found.layers[name]["exclusive"][row] == len(alone) / np.prod(shape)
    masks = {task: store.part(task).unit_masks for task in found.tasks}
    assert found.units
    for group in graph.groups:
        kept = [set(np.flatnonzero(masks[task].get(group.name, np.ones(group.size, bool)))) for task in found.tasks]
        if group.name in found.units:
            assert found.units[group.name]["size"] == group.size and found.units[group.name]["kept"] == [len(units) for units in kept]
            others = [set().union(*(kept[o] for o in range(3) if o != row)) for row in range(3)]
            assert found.units[group.name]["exclusive"] == [len(units - rest) for units, rest in zip(kept, others, strict=True)]
        else:
            assert all(len(units) == group.size for units in kept)


def test_a_store_without_tasks(tmp_path):
    graph = samples.make_graph()
    store = Store.create(tmp_path / "store", trunk=samples.make_trunk(graph), graph=graph, recipe={})
    found = sharing(store).record()
    assert found["tasks"] == [] and found["by_owner"] == [] and found["units"] == {}
