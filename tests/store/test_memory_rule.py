"""The memory that docs/store-format.md says a task's reader allocates, on what takes the most of it."""

import re
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import store_fuzz
from test_worked_sizes import graph_of

from tsn_toolkit.contracts import FreeParameterRecord, HeadState, LayerCodes, Refinement, TaskResult, TrunkResult
from tsn_toolkit.numerics.vector_rows import round_rows
from tsn_toolkit.store.known_slots import KnownSlots
from tsn_toolkit.store.masks import decode_mask
from tsn_toolkit.store.part import BlobReader, PartError, bytes_source, open_part, write_part
from tsn_toolkit.store.store import Store

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "store-format.md").read_text()
OF_FILES, OF_SLOTS, OF_GROUPS = (int(number) for number in re.findall(r"(?m)^- (\d+) bytes for each ", PAGE))
SLOTS = 1 << 17
PRUNED, REUSE, OWN, REFINE = range(4)


def peak_bytes(action):
    action()  # imports and caches of a first time
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_the_fuzzer_holds_readers_against_it():
    assert (store_fuzz.BYTES_PER_FILE_BYTE, store_fuzz.BYTES_PER_SLOT) == (OF_FILES, OF_SLOTS)


def nested(depth, value):
    return value if depth == 0 else [nested(depth - 1, value)]


@pytest.mark.parametrize("recipe", [[nested(300, 0)] * 500, [{}] * 100_000, {f"{i:x}": {} for i in range(50_000)}, '"\u1234' * 50_000])
def test_a_header(recipe):
    data = write_part({"recipe": recipe}, {})
    assert peak_bytes(lambda: open_part(bytes_source(data), len(data))) < OF_FILES * len(data)


@pytest.mark.parametrize("choices", [False, True])
def test_a_layer(tmp_path, choices):
    rng, path = np.random.default_rng(0), tmp_path / "store"
    store = Store.create(path, trunk=TrunkResult("seed", 0, {}, {}, {}, None), graph=graph_of([(256, SLOTS // 256)], 2), recipe={})
    for task, parent in ("a", "trunk"), ("b", "a"):
        present = store.frozen_view(parent)["layer0"].present
        used = (rng.random((SLOTS // 4, 4)).argsort(1) < 2).reshape(present.shape) if choices else rng.random(present.shape) < 0.4
        states = np.where(used, np.where(present, rng.choice([REUSE, REFINE], present.shape), OWN), PRUNED).astype(np.uint8)
        codes, book = rng.geometric(0.1, (states == OWN).sum()).clip(0, 127).astype(np.uint8), np.arange(-64, 64).astype(np.int8)
        residuals = Refinement(rng.integers(0, 2, (states == REFINE).sum()).astype(np.uint8), np.array([-1, 1], np.int8), 1)
        layer = LayerCodes(states, codes, book, 7, np.ones(256, np.float32), "2:4" if choices else "element", residuals)
        head = HeadState(np.zeros((2, 256), np.int8), np.ones(2, np.float32), np.zeros(2, np.float32))
        store.commit(TaskResult(task, parent, "exact", "sample", (0, 1), {}, {"layer0": layer}, {}, {}, head, {}), {})
    groups = SLOTS // 4 if choices else 0
    returned, files = SLOTS, sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    used_bytes = peak_bytes(lambda: Store.open(path).weights("b"))
    assert 4 * SLOTS < used_bytes < OF_SLOTS * SLOTS + OF_GROUPS * groups + returned + files


@pytest.mark.parametrize("length", [16, 1 << 12])
def test_free_parameters(tmp_path, length):
    """In rows, of two owners in a line: each is decoded over what is inherited."""
    entries = 1 << 16
    rows = entries // length
    graph = replace(graph_of([(2, 2)], 2), free_parameters=(FreeParameterRecord("table", (rows, length)),))
    store = Store.create(tmp_path / "store", trunk=TrunkResult("seed", 0, {}, {}, {}, None), graph=graph, recipe={})
    rng, one = np.random.default_rng(0), np.ones(2, np.float32)
    layer = LayerCodes(np.zeros((2, 2), np.uint8), np.zeros(0, np.uint8), np.zeros(0, np.int8), 0, one)
    head = HeadState(np.zeros((2, 2), np.int8), one, one)
    for task, parent in ("a", "trunk"), ("b", "a"):
        table = round_rows(rng.normal(size=(rows, length)).astype(np.float32), "half")
        result = TaskResult(task, parent, "exact", "sample", (0, 1), {}, {"layer0": layer}, {}, {}, head, {}, free_parameters={"table": table})
        store.commit(result, {})
    used_bytes = peak_bytes(lambda: Store.open(store.path).weights("b"))
    assert 4 * entries < used_bytes < OF_SLOTS * entries + (1 << 18)


def test_a_mask_of_groups_of_one():
    known = KnownSlots(np.zeros(SLOTS, bool), np.zeros(SLOTS, np.uint8), SLOTS)
    data = bytes([5, 1, 1, 0])  # every slot is marked, without a bit: 4 bytes for as many slots as the record says
    assert decode_mask(BlobReader.of("masks", data), known, refines=False)[1].min() == OWN
    assert peak_bytes(lambda: decode_mask(BlobReader.of("masks", data), known, refines=False)) < OF_GROUPS * SLOTS


def test_a_longer_header_is_refused_before_it_is_read():
    read = []

    def source(offset, size_bytes):
        read.append(size_bytes)
        return (1 << 30).to_bytes(8, "little")[offset : offset + size_bytes]

    with pytest.raises(PartError, match="longer than 16777216"):
        open_part(source, 1 << 31)
    assert read == [8]
