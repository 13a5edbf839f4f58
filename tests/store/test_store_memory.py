"""What materialising a task costs in memory: little more than its dense weights, whatever the length of its chain."""

import gc
import tracemalloc

import numpy as np
import pytest
from test_worked_sizes import graph_of

from tsn_toolkit.contracts import HeadState, LayerCodes, LayerPlanes, TaskResult, TrunkResult
from tsn_toolkit.store.part_files import PartFiles
from tsn_toolkit.store.store import Store

PRUNED, REUSE, OWN = range(3)
# About a million weights, in stages like those of a ResNet.
SHAPES = [(64, 3, 3, 3), *[(64, 64, 3, 3)] * 4, *[(128, 128, 3, 3)] * 3, (256, 128, 3, 3), (256, 512)]
DENSE_BYTES = 4 * sum(int(np.prod(shape)) for shape in SHAPES)


def grow(path, encoding, length):
    graph, rng = graph_of(SHAPES, 10), np.random.default_rng(0)
    store = Store.create(path, trunk=TrunkResult("seed", 0, {}, {}, {}, None, 64), graph=graph, recipe={})
    for index in range(length):
        parent, layers = f"t{index - 1}" if index else "trunk", {}
        used_before = store.states(parent)
        for name, view in store.frozen_view(parent).items():
            shape, scale = view.q.shape, np.ones(len(view.q), np.float32)
            if encoding == "planes":
                layers[name] = LayerPlanes(rng.random(shape) < 0.5, np.full(shape[0], 3, np.int8), scale)
                continue
            used = np.where(used_before[name] != PRUNED, rng.random(shape) < 0.7, rng.random(shape) < (0.03 if index else 0.1))
            states = np.where(used, np.where(view.present, REUSE, OWN), PRUNED).astype(np.uint8)
            codes = rng.integers(0, 16, int((states == OWN).sum())).astype(np.uint8)
            layers[name] = LayerCodes(states, codes, np.arange(-64, 64, 8).astype(np.int8), 4, scale)
        head = HeadState(np.zeros((10, 256), np.int8), np.ones(10, np.float32), np.zeros(10, np.float32))
        store.commit(TaskResult(f"t{index}", parent, "exact", "sample", tuple(range(10)), {}, layers, {}, {}, head, {}), {})
    return f"t{length - 1}"


@pytest.fixture
def traced():
    gc.collect()
    tracemalloc.start()
    yield
    tracemalloc.stop()


@pytest.mark.parametrize(("encoding", "length"), [("codes", 1), ("codes", 10), ("planes", 10)])
def test_peak_of_materialising(tmp_path, traced, encoding, length):
    task = grow(tmp_path / "store", encoding, length)
    store = Store.open(tmp_path / "store", check=False)
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    dense = store.dense_weights(task)
    after, peak = tracemalloc.get_traced_memory()
    assert sum(array.nbytes for array in dense.values()) == DENSE_BYTES
    assert peak - before <= 1.5 * DENSE_BYTES
    del dense
    assert tracemalloc.get_traced_memory()[0] - before <= 0.02 * DENSE_BYTES  # nothing decoded is kept


def test_opening_keeps_nothing_decoded(tmp_path, traced):
    grow(tmp_path / "store", "planes", 3)
    gc.collect()
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    store = Store.open(tmp_path / "store")
    after, peak = tracemalloc.get_traced_memory()
    assert after - before <= 0.02 * DENSE_BYTES
    assert peak - before <= 0.5 * DENSE_BYTES  # the piece of a file that is hashed at a time
    assert len(store.entries) == 3


def test_walking_all_owners_keeps_what_children_need(tmp_path, traced):
    grow(tmp_path / "store", "codes", 10)
    store = Store.open(tmp_path / "store")
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    slots = sum(held.states.size for _, owners in store.layers_of_all() for _, held in owners)
    assert slots == 11 * store.architecture.size
    largest = max(int(np.prod(shape)) for shape in SHAPES)
    assert tracemalloc.get_traced_memory()[1] - before <= 25 * largest


def test_one_task_reads_the_files_of_its_chain_only(tmp_path, monkeypatch):
    task = grow(tmp_path / "store", "codes", 3)
    store = Store.open(tmp_path / "store", check=False)
    opened = []
    check = PartFiles.check
    monkeypatch.setattr(PartFiles, "check", lambda files, entry: opened.append(entry.path) or check(files, entry))
    store.dense_weights("t1")
    assert opened == ["tasks/000-t0.safetensors", "tasks/001-t1.safetensors"]
    store.dense_weights(task)
    assert opened[2:] == ["tasks/002-t2.safetensors"]
