"""Reported bytes are bytes on disk (I4) and near the entropy."""

import math
import os

import numpy as np
import store_samples as samples

from tsn_toolkit.files import folder_bytes
from tsn_toolkit.store.allocation import allocation
from tsn_toolkit.store.entropy_size import entropy_bits_by_owner
from tsn_toolkit.store.inspect import KINDS, inspect_store
from tsn_toolkit.store.retire import retire_task
from tsn_toolkit.store.store import Store


def build(path, width=1):
    graph = samples.make_graph(width)
    store = Store.create(path, trunk=samples.make_trunk(graph), graph=graph, recipe=samples.RECIPE)
    for index, parent in enumerate(["trunk", "a", "b"]):
        store.commit(samples.make_task(store, "abc"[index], parent, seed=index, bit_width=4), {})
    return Store.open(path)


def test_every_byte_is_counted_once(tmp_path):
    store = build(tmp_path / "store")
    (store.path / "tasks" / "003-orphan.safetensors").write_bytes(b"left by a kill")
    report = inspect_store(store)
    on_disk = {}
    for folder, _, files in os.walk(store.path):
        for file in files:
            full = os.path.join(folder, file)
            on_disk[os.path.relpath(full, store.path)] = os.stat(full).st_size
    assert {part["path"]: part["bytes"] for part in report["parts"]} == on_disk
    assert report["total_bytes"] == sum(on_disk.values())
    for part in report["parts"]:
        assert tuple(part["breakdown"]) == KINDS and sum(part["breakdown"].values()) == part["bytes"]
    assert [part["path"] for part in report["parts"] if part.get("orphan")] == ["tasks/003-orphan.safetensors"]


def test_marginal_bytes_are_what_the_folder_grows_by(tmp_path):
    graph = samples.make_graph()
    store = Store.create(tmp_path / "store", trunk=samples.make_trunk(graph), graph=graph, recipe=samples.RECIPE)
    grown, empty = {}, folder_bytes(store.path)
    for index, (name, parent) in enumerate([("a", "trunk"), ("a-longer-name", "a"), ("c", "trunk")]):
        before = folder_bytes(store.path)
        store.commit(samples.make_task(store, name, parent, seed=index), {})
        grown[name] = folder_bytes(store.path) - before
        report = inspect_store(Store.open(store.path))
        assert {task["name"]: task["marginal_bytes"] for task in report["tasks"]} == grown
        assert report["total_bytes"] == empty + sum(grown.values())
    assert all(grown[entry.name] > entry.size_bytes + 150 for entry in store.entries)
    retire_task(store.path, "a-longer-name")
    assert folder_bytes(store.path) == empty + grown["a"] + grown["c"]


def test_bytes_stand_under_their_kind(tmp_path):
    graph = samples.make_graph()
    store = Store.create(tmp_path / "store", trunk=samples.make_trunk(graph), graph=graph, recipe={})
    store.commit(samples.make_task(store, "a", masked=False), {})
    kinds = inspect_store(store)["parts"][2]["breakdown"]
    # Half vectors take 1 + 2n bytes: outputs 6, 4, 5, a flag before each; 2 ranges of 7 bytes; gain and shift of 6; a bias of 4; head: bits per code,
    # form, 2 x 5 codes, scale and bias of 2.
    assert kinds["scales"] == 3 + 13 + 9 + 11 + 14 and kinds["norms"] == 13 + 13 and kinds["biases"] == 9 and kinds["heads"] == 2 + 10 + 5 + 5
    assert kinds["codebooks"] == 3 * 4


def test_slots_are_counted(tmp_path):
    store = build(tmp_path / "store")
    total = sum(math.prod(shape) for shape in samples.SHAPES.values())
    for task in inspect_store(store)["tasks"]:
        flat = np.concatenate([states.reshape(-1) for states in store.states(task["name"]).values()])
        assert task["own_slots"] == (flat == samples.OWN).sum() and task["reuse_slots"] == (flat == samples.REUSE).sum()
        assert task["density"] == (flat != samples.PRUNED).sum() / total
        for name, states in store.states(task["name"]).items():
            layer = task["layers"][name]
            assert (layer["own_slots"], layer["reuse_slots"]) == ((states == samples.OWN).sum(), (states == samples.REUSE).sum())
            assert layer["bit_width"] == (4 if layer["own_slots"] else 0)


def entropy(groups):
    """Bits of lists of symbols, each list with a distribution of its own."""
    return -sum(n * math.log2(n / len(symbols)) for symbols in groups for n in (symbols.count(s) for s in set(symbols)))


def slow_layer_bits(form, slots):
    """Entropy of one layer's mask as its form codes it. `slots`: rows of (state, present, who of the ancestors uses it, nearest first)."""
    mask, second, third = {}, {}, {}
    for row in slots:
        marked = [state >= (1 if form.marks == 0 else 2) for state, _, _ in row]
        if form.layout in (0, 1, 2):
            for bit, (_, present, used) in zip(marked, row):
                mask.setdefault((present, *used[: form.depth]) if form.layout == 0 else (), []).append(bit)
        elif form.layout == 4:
            for first in range(0, len(row), form.sizes[0]):
                _, present, used = row[first]
                mask.setdefault((present, *used[: form.depth]), []).append(marked[first])
        elif form.layout == 5:
            keep, group = form.sizes
            for first in range(0, len(row), group):
                length = min(group, len(row) - first)
                open_marks = min(keep, length)
                for place in range(length):
                    _, present, used = row[first + place]
                    if 0 < open_marks < length - place:
                        mask.setdefault((length - place, open_marks, present, *used[: form.depth]), []).append(marked[first + place])
                    open_marks -= marked[first + place]
        for bit, (state, present, used) in zip(marked, row):
            if present and bit == (form.marks == 0):
                second.setdefault(used[: form.state_depth], []).append(state == 1)
            if present and state >= 2:
                third.setdefault(used[: form.state_depth], []).append(state == 3)
    return entropy(mask.values()) + entropy(second.values()) + entropy(third.values())


def slow_entropy_bits(store, name, graph_masks):
    bits, chain = 0.0, store.chain(name)
    frozen, states_of = store.frozen_view(chain[-2]), store.states(name)
    above = [store.states(owner) for owner in reversed(chain[1:-1])]
    for layer, held in store.layers(name):
        kept = graph_masks[layer.name]
        rows = []
        for output in range(layer.shape[0]):
            places = [(output, *place) for place in np.argwhere(kept[output])]
            uses = [[bool(states[layer.name][tuple(place)]) for states in above] + [False] * 7 for place in places]
            rows.append(
                [
                    (int(states_of[layer.name][tuple(place)]), bool(frozen[layer.name].present[tuple(place)]), tuple(used))
                    for place, used in zip(places, uses)
                ]
            )
        if held.form is not None:
            bits += slow_layer_bits(held.form, rows) + entropy([held.own.codes.tolist()])
            if held.own.refinement is not None:
                bits += entropy([held.own.refinement.codes.tolist()])
        elif held.own is not None:
            bits += entropy([held.own.signs[kept].tolist()])
    return bits


def test_files_are_near_the_entropy(tmp_path):
    store = build(tmp_path / "store", width=8)
    report, by_owner = inspect_store(store), entropy_bits_by_owner(store)
    bits = 0.0
    for entry in store.entries:
        masks = samples.expand(store.weights(entry.name).unit_masks, samples.make_graph(8))
        own = slow_entropy_bits(store, entry.name, masks)
        assert own > 5000
        np.testing.assert_allclose(own, by_owner[entry.name], rtol=1e-9)
        bits += own
        kinds = next(part for part in report["parts"] if part["path"] == entry.path)["breakdown"]
        assert own / 8 <= kinds["masks"] + kinds["values"] <= 1.05 * own / 8 + 1024
    for codes in store.trunk().layers.values():
        bits += entropy([codes.codes.tolist()])
    assert report["entropy_bytes"] == math.ceil(bits / 8)


def test_entropy_of_every_form(tmp_path):
    store, layouts = samples.build_forms(tmp_path / "store")
    by_owner = entropy_bits_by_owner(store)
    for entry in store.entries:
        masks = samples.expand(store.part(entry.name).unit_masks, samples.make_graph(samples.FORMS_WIDTH))
        np.testing.assert_allclose(by_owner[entry.name], slow_entropy_bits(store, entry.name, masks), rtol=1e-9, err_msg=entry.name)
    assert layouts == set(range(6))


def test_allocation_counts_every_bit(tmp_path):
    store = build(tmp_path / "store")
    words = allocation(store)
    for layer in store.architecture.layers:
        taken = np.full(layer.shape, 4)  # the trunk
        by_owner = {"trunk": 4 * layer.size}
        for entry in store.entries:
            own = store.states(entry.name)[layer.name] == samples.OWN
            taken += 4 * own
            by_owner[entry.name] = 4 * int(own.sum())
        bits, slots = np.unique(taken, return_counts=True)
        assert words[layer.name].allocated == dict(zip(bits.tolist(), slots.tolist()))
        assert words[layer.name].by_owner == {name: bits for name, bits in by_owner.items() if bits}
        assert words[layer.name].free_bits == 32 * layer.size - taken.sum()
    report = inspect_store(store)["layers"]
    assert [row["name"] for row in report] == list(words) and report[0]["slots"] == 54 and report[0]["word_bits"] == 32


def test_planes_refinements_and_revisions_are_allocated_as_they_are(tmp_path):
    store, _ = samples.build_forms(tmp_path / "store")
    words = allocation(store)["fc"]
    planes = next(held for layer, held in store.layers("plane") if layer.name == "fc")
    assert words.by_owner["plane"] == int((planes.states == samples.REFINE).sum())
    refined = store.states("refined")["fc"]
    assert words.by_owner["refined"] == 2 * int((refined == samples.OWN).sum()) + 3 * int((refined == samples.REFINE).sum())
    assert "beside" not in words.by_owner
