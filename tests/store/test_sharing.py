"""Sharing by layer and by unit against slot by slot counting."""

import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
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


def stub(states, parents):
    """What `sharing` asks of a store: tasks `t0`, `t1`, ..., of given parents (-1 the trunk) and states (tasks, slots) at one layer."""
    names = [f"t{number}" for number in range(len(parents))]
    entries = [SimpleNamespace(name=name, parent=TRUNK if parent < 0 else names[parent]) for name, parent in zip(names, parents, strict=True)]

    def layers_of_all():
        owners = [(TRUNK, np.full(states.shape[1], samples.OWN, np.uint8)), *zip(names, states, strict=True)]
        yield SimpleNamespace(name="fc", size=states.shape[1]), ((name, SimpleNamespace(states=held, read=held)) for name, held in owners)

    return SimpleNamespace(
        entries=entries,
        entry={entry.name: entry for entry in entries}.__getitem__,
        layers_of_all=layers_of_all,
        part=lambda name: SimpleNamespace(unit_masks={}),
        architecture=SimpleNamespace(groups=()),
    )


def slow(states, parents):
    """Slot by slot: (tasks, slots) of the owner that is read, None where the slot is not used."""
    read = []
    for task, row in enumerate(states):
        found = []
        for slot, state in enumerate(row):
            owner = task
            while owner >= 0 and states[owner][slot] < samples.OWN:
                owner = parents[owner]
            found.append(None if state == samples.PRUNED else owner)
        read.append(found)
    return read


@pytest.mark.parametrize(("tasks", "slots"), [(1, 1), (7, 2040), (5, 4100), (9, 2041), (300, 30), (3, 0)])
@pytest.mark.parametrize("lineage", ["chain", "star", "tree"])
def test_any_lineage_and_size_against_the_definition(tasks, slots, lineage):
    rng = np.random.default_rng([tasks, slots, len(lineage)])
    parent_of = {"chain": lambda task: task - 1, "star": lambda task: -1, "tree": lambda task: int(rng.integers(-1, max(task, 0)))}[lineage]
    parents = [parent_of(task) for task in range(tasks)]
    states = rng.choice([0, 1, 2, 3], (tasks, slots), p=[0.4, 0.4, 0.1, 0.1]).astype(np.uint8)
    states[tasks // 2] = samples.PRUNED
    found, read = sharing(stub(states, parents)), slow(states, parents)
    for task, mine in enumerate(read):
        used = max(sum(owner is not None for owner in mine), 1)
        assert found.by_owner[task].tolist() == [mine.count(owner) / used for owner in range(-1, tasks)]
        same = [sum(a == b is not None for a, b in zip(mine, other, strict=True)) / used for other in read]
        assert found.with_task[task].tolist() == same
        assert found.layers["fc"]["used"][task] == sum(owner is not None for owner in mine) / max(slots, 1)
    readers = [{} for _ in range(slots)]
    for mine in read:
        for slot, owner in enumerate(mine):
            readers[slot][owner] = readers[slot].get(owner, 0) + 1
    alone = [sum(owner is not None and readers[slot][owner] == 1 for slot, owner in enumerate(mine)) for mine in read]
    assert found.layers["fc"]["exclusive"] == [count / max(slots, 1) for count in alone]


@pytest.mark.parametrize("parents", [list(range(-1, 99)), [-1] * 100], ids=["chain", "star"])
def test_memory_is_about_a_byte_for_each_task_and_slot(parents):
    states = np.random.default_rng(0).integers(0, 4, (100, 1 << 14)).astype(np.uint8)
    store = stub(states, parents)
    tracemalloc.start()
    sharing(store)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * states.nbytes
