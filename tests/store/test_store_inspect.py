"""Reported bytes are bytes on disk (I4) and near the entropy."""

import math
import os

import numpy as np
import store_samples as samples

from tsn_toolkit.store.entropy_size import owner_entropy_bits
from tsn_toolkit.store.inspect import KINDS, inspect_store
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
    assert [task["marginal_bytes"] for task in report["tasks"]] == [on_disk[entry.path] for entry in store.entries]


def test_bytes_stand_under_their_kind(tmp_path):
    graph = samples.make_graph()
    store = Store.create(tmp_path / "store", trunk=samples.make_trunk(graph), graph=graph, recipe={})
    store.commit(samples.make_task(store, "a", masked=False), {})
    kinds = inspect_store(store)["parts"][2]["breakdown"]
    # Half vectors take 1 + 2n bytes: outputs 6, 4, 5; 2 ranges of 7 bytes; gain and shift of 6; a bias of 4; head 2 x 5 codes, scale and bias of 2.
    assert kinds["scales"] == 13 + 9 + 11 + 14 and kinds["norms"] == 13 + 13 and kinds["biases"] == 9 and kinds["heads"] == 10 + 5 + 5
    assert kinds["codebooks"] == 3 * 4


def test_slots_are_counted(tmp_path):
    store = build(tmp_path / "store")
    total = sum(math.prod(shape) for shape in samples.SHAPES.values())
    for task in inspect_store(store)["tasks"]:
        flat = np.concatenate([states.reshape(-1) for states in store.states(task["name"]).values()])
        assert task["own_slots"] == (flat == samples.OWN).sum() and task["reuse_slots"] == (flat == samples.REUSE).sum()
        assert task["density"] == (flat != samples.PRUNED).sum() / total


def slow_entropy_bits(store, index):
    """Per layer and context: entropy of the symbols, contexts as tuples; entropy of the codes."""
    name = store.entries[index].name
    bits = 0.0
    chain = store.chain(name)
    frozen = store.frozen_view(chain[-2])
    masks, states_of = store.weights(name).unit_masks, store.states(name)
    above = [store.states(owner) for owner in reversed(chain[1:-1])]
    rows = dict(zip(samples.SHAPES, store.decoded(name).metadata["layers"]))
    for layer, kept in samples.expand(masks, samples.make_graph(store.architecture.groups[0].size // 6)).items():
        ancestors = [states[layer] for states in above][: rows[layer][1]]
        seen = {}
        for slot in zip(*np.nonzero(kept)):
            context = (bool(frozen[layer].present[slot]), *(int(states[slot]) for states in ancestors))
            seen.setdefault(context, []).append(int(states_of[layer][slot]))
        seen["codes"] = store.decoded(name).layers[layer].codes.codes.tolist()
        for symbols in seen.values():
            bits -= sum(n * math.log2(n / len(symbols)) for n in (symbols.count(s) for s in set(symbols)))
    return bits


def test_files_are_near_the_entropy(tmp_path):
    store = build(tmp_path / "store", width=8)
    report = inspect_store(store)
    bits = 0.0
    for index, entry in enumerate(store.entries):
        own = slow_entropy_bits(store, index)
        assert own > 5000
        np.testing.assert_allclose(own, owner_entropy_bits(store, entry.name), rtol=1e-9)
        bits += own
        kinds = next(part for part in report["parts"] if part["path"] == entry.path)["breakdown"]
        assert own / 8 <= kinds["masks"] + kinds["values"] <= 1.05 * own / 8 + 1024
    for codes in store.trunk().layers.values():
        counts = np.bincount(codes.codes)
        counts = counts[counts > 0]
        bits -= float((counts * np.log2(counts / counts.sum())).sum())
    assert report["entropy_bytes"] == math.ceil(bits / 8)
