"""A revision's description and memory come back as they went in, count where they belong, and damage in them is an error."""

import json
from dataclasses import replace

import numpy as np
import pytest
import store_samples as samples

from tsn_toolkit.contracts import Revision
from tsn_toolkit.errors import StoreError
from tsn_toolkit.files import folder_bytes
from tsn_toolkit.store.folder import MANIFEST
from tsn_toolkit.store.inspect import inspect_store
from tsn_toolkit.store.manifest import Manifest, hash_bytes, read_manifest
from tsn_toolkit.store.packing import pack_store, unpack_store
from tsn_toolkit.store.part import BLOBS, MEMORY, canonical_json, read_part, write_part
from tsn_toolkit.store.store import Store

RNG = np.random.default_rng(0)
ARRAYS = {
    "x": RNG.integers(0, 256, (4, 1, 3, 3)).astype(np.uint8),
    "rows": np.array([0, 1, 0, 1]),
    "logits": RNG.standard_normal((4, 2)).astype(np.float16),
    "fisher/conv1.weight": RNG.random((6, 1, 3, 3)).astype(np.float32),
    "empty": np.zeros((0, 5), np.float32),
}


@pytest.fixture
def store(tmp_path):
    graph = samples.make_graph()
    return Store.create(tmp_path / "store", trunk=samples.make_trunk(graph), graph=graph, recipe={})


def result_of(store, name="t0", memory=ARRAYS, **changes):
    revision = Revision(**{"rows": {"older": (0,), name: (1, 0)}, "task_known": False, "memory": memory, **changes})
    return replace(samples.make_task(store, name), isolation="none", revision=revision)


def test_a_revision_comes_back_as_it_went_in(store):
    result = result_of(store)
    store.commit(result, {})
    found = Store.open(store.path).revision("t0")
    assert (found.rows, found.task_known, list(found.memory)) == (result.revision.rows, False, list(ARRAYS))
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found.memory[name], array)
        assert found.memory[name].dtype == array.dtype and found.memory[name].flags.writeable


def test_other_tasks_have_none_and_nine_blobs(store):
    store.commit(samples.make_task(store, "plain"), {})
    store.commit(result_of(store, memory={}), {})
    assert store.revision("plain") is None and store.revision("t0").memory == {}
    for entry in store.entries:
        metadata, blobs = read_part((store.path / entry.path).read_bytes())
        assert tuple(blobs) == BLOBS


def test_bytes_of_the_memory_are_counted_by_themselves(store):
    entry = store.commit(result_of(store), {})
    report = inspect_store(store)
    (part,) = (part for part in report["parts"] if part["path"] == entry.path)
    assert part["breakdown"]["memory"] == sum(array.nbytes for array in ARRAYS.values()) == 36 + 32 + 16 + 216
    assert sum(part["breakdown"].values()) == part["bytes"] and report["total_bytes"] == folder_bytes(store.path)
    assert all("memory" not in other["breakdown"] for other in report["parts"] if other is not part)


def test_a_packed_store_keeps_it(store, tmp_path):
    store.commit(result_of(store), {})
    pack_store(store, tmp_path / "image.tsn", None)
    unpacked = unpack_store(tmp_path / "image.tsn", tmp_path / "unpacked")
    entry = store.entries[0]
    assert (unpacked.path / entry.path).read_bytes() == (store.path / entry.path).read_bytes()


BAD = {
    "only a result of isolation `none` is a revision, got `exact`": lambda r: replace(r, isolation="exact"),
    r"must be itself, got \['older'\]": lambda r: replace(r, revision=Revision({"older": (0,)}, True)),
    r"task `t0` must be distinct and lie in 0..1, got \(1, 2\)": lambda r: replace(r, revision=Revision({"t0": (1, 2)}, True)),
    r"must be distinct and lie in 0..1, got \(1, 1\)": lambda r: replace(r, revision=Revision({"t0": (1, 1)}, True)),
    r"must be distinct and lie in 0..1, got \(\)": lambda r: replace(r, revision=Revision({"t0": ()}, True)),
    r"memory `a` must be one of .* got float64 \(2,\)": lambda r: replace(r, revision=Revision({"t0": (0, 1)}, True, {"a": np.zeros(2)})),
}


@pytest.mark.parametrize("message", BAD)
def test_what_cannot_be_stored_is_refused(store, message):
    with pytest.raises(StoreError, match=message):
        store.commit(BAD[message](result_of(store)), {})
    assert store.entries == ()


def rewrite(store, change):
    """The store with the first task's part changed and hashed anew."""
    entry = store.entries[0]
    metadata, blobs = read_part((store.path / entry.path).read_bytes())
    change(metadata, blobs)
    data = write_part(json.loads(canonical_json(metadata)), blobs)
    (store.path / entry.path).write_bytes(data)
    manifest, _ = read_manifest(store.path)
    fresh = replace(entry, sha256=hash_bytes(data), size_bytes=len(data))
    (store.path / MANIFEST).write_bytes(Manifest(manifest.trunk, (fresh,)).to_bytes())
    return Store.open(store.path)


def change_revision(key, value):
    return lambda metadata, blobs: metadata["revision"].update({key: value})


DAMAGE = {
    "its memory has 300 bytes, its arrays take 36": change_revision("memory", [["x", "uint8", [4, 1, 3, 3]]]),
    "of kind 'float64'": change_revision("memory", [["x", "float64", [1]]]),
    "expected an integer in": change_revision("memory", [["x", "uint8", [-1, -300]]]),
    "names an array twice": change_revision("memory", [["x", "uint8", [150]], ["x", "uint8", [150]]]),
    r"names logits \(1, 9\) of 2": change_revision("rows", [["t0", [1, 9]]]),
    "does not answer for itself last": change_revision("rows", [["t1", [1, 0]]]),
    "names a task twice": change_revision("rows", [["t0", [1, 0]], ["t0", [1, 0]]]),
    "expected true or false": change_revision("task_known", 1),
    "it has a memory, but is no revision": lambda metadata, blobs: metadata.pop("revision"),
    "has 301 bytes": lambda metadata, blobs: blobs.update({MEMORY: blobs[MEMORY] + b"x"}),
}


@pytest.mark.parametrize("message", DAMAGE)
def test_damage_that_was_hashed_anew_is_an_error_with_the_part_s_name(store, message):
    store.commit(result_of(store), {})
    with pytest.raises(StoreError, match=f"tasks/000-t0.safetensors.*{message}"):
        rewrite(store, DAMAGE[message]).revision("t0")
