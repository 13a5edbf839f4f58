"""Damaged, re-hashed, killed and contended stores (I12)."""

import multiprocessing
import os
import random
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import store_samples as samples

from tsn_toolkit.errors import StoreError
from tsn_toolkit.store.folder import write_atomic, writer_lock
from tsn_toolkit.store.integrity import verify_store
from tsn_toolkit.store.joint_image import JointImage
from tsn_toolkit.store.manifest import Manifest, hash_bytes, read_manifest
from tsn_toolkit.store.packing import pack_store
from tsn_toolkit.store.part import BLOBS, read_part, write_part
from tsn_toolkit.store.store import Store


@pytest.fixture
def store(tmp_path):
    graph = samples.make_graph()
    store = Store.create(tmp_path / "store", trunk=samples.make_trunk(graph), graph=graph, recipe={})
    store.commit(samples.make_task(store, "a"), {})
    store.commit(samples.make_task(store, "b", "a", seed=1, shared=("conv1",)), {})
    return store


PARTS = ["manifest.json", "trunk.safetensors", "tasks/000-a.safetensors", "tasks/001-b.safetensors"]


@pytest.mark.parametrize(("part", "step"), [(PARTS[0], 1), (PARTS[1], 7), (PARTS[2], 1), (PARTS[3], 7)])
def test_every_flipped_byte_is_refused_with_the_parts_name(store, part, step):
    path = store.path / part
    original = path.read_bytes()
    for offset in range(0, len(original), step):
        damaged = bytearray(original)
        damaged[offset] ^= 1 << offset % 8
        path.write_bytes(damaged)
        with pytest.raises(StoreError, match=part):
            Store.open(store.path)
    path.write_bytes(original)
    Store.open(store.path)


@pytest.mark.parametrize("part", PARTS[1:])
def test_missing_and_cut_parts(store, part):
    path = store.path / part
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(StoreError, match=f"{part}.*the manifest says"):
        Store.open(store.path)
    path.unlink()
    with pytest.raises(StoreError, match=f"{part}.*cannot be read"):
        Store.open(store.path)


def rehash(folder: Path, part: str, data: bytes) -> None:
    """Writes a part and a manifest that vouches for it."""
    (folder / part).write_bytes(data)
    manifest, _ = read_manifest(folder)
    fields = {"sha256": hash_bytes(data), "size_bytes": len(data)}
    trunk = replace(manifest.trunk, **fields) if part == manifest.trunk.path else manifest.trunk
    entries = tuple(replace(entry, **fields) if entry.path == part else entry for entry in manifest.entries)
    (folder / "manifest.json").write_bytes(Manifest(trunk, entries).to_bytes())


def mutations(original: bytes, seed: int, count: int):
    draw = random.Random(seed)
    for _ in range(count):
        data = bytearray(original)
        kind = draw.randrange(5)
        if kind == 0:
            del data[draw.randrange(len(data)) :]
        elif kind == 1:
            del data[draw.randrange(len(data))]
        elif kind == 2:
            data.insert(draw.randrange(len(data)), draw.randrange(256))
        elif kind == 3:  # a digit of the metadata: shapes, counts, widths
            digits = [i for i, byte in enumerate(data[8 : 8 + int.from_bytes(data[:8], "little")], 8) if chr(byte).isdigit()]
            data[draw.choice(digits)] = ord(draw.choice("0123456789-"))
        else:
            for _ in range(draw.randint(1, 3)):
                data[draw.randrange(len(data))] = draw.randrange(256)
        yield bytes(data)


@pytest.mark.parametrize("part", PARTS[1:])
def test_a_rehashed_part_is_refused_or_another_valid_model(store, part):
    original, manifest = (store.path / part).read_bytes(), (store.path / "manifest.json").read_bytes()
    refused = 0
    for data in mutations(original, seed=len(part), count=150):
        rehash(store.path, part, data)
        try:
            opened = Store.open(store.path)
            for name in ("a", "b"):
                weights = opened.weights(name)
                assert all(np.abs(q.astype(int)).max() <= 127 for q in weights.q.values())
                assert opened.codes_hash(name) and isinstance(opened.recipe(name), dict)
        except StoreError as error:
            # A damaged trunk can also make a child unreadable, which is then the one that is named.
            assert part in str(error) or (part != PARTS[3] and "tasks/" in str(error))
            refused += 1
        (store.path / part).write_bytes(original)
        (store.path / "manifest.json").write_bytes(manifest)
    assert 30 < refused <= 150


def garbled(name):
    return lambda metadata, blobs: (metadata, {**blobs, name: bytes(len(blobs[name])) + b"\1"})


TRUNK_DAMAGE = {
    "the head": (garbled("head"), "codes of the head have 1..8 bits, not 0"),
    "the norms": (garbled("norms"), "blob `norms` has 1 bytes too many"),
    "the biases": (garbled("biases"), "blob `biases` has 1 bytes too many"),
    "more classes than the head has bytes": (lambda metadata, blobs: (metadata | {"head_classes": 17}, blobs), "cannot have 17 classes"),
    "no classes": (lambda metadata, blobs: (metadata | {"head_classes": None}, blobs), "do not account for"),
    "a memory": (garbled("memory"), "do not account for"),
    "masks": (garbled("masks"), "do not account for"),
}


@pytest.mark.parametrize("damage", TRUNK_DAMAGE)
def test_a_rehashed_trunk_is_decoded_by_verify(tsn, store, damage):
    change, message = TRUNK_DAMAGE[damage]
    metadata, blobs = read_part((store.path / PARTS[1]).read_bytes())
    rehash(store.path, PARTS[1], write_part(*change(metadata, {"memory": b"", **blobs})))
    refused = tsn("verify", store.path)
    assert refused.exit_code == 1 and PARTS[1] in refused.stderr and message in refused.stderr, refused.stderr


@pytest.mark.parametrize("blob", [*BLOBS, "memory"])
def test_a_seed_trunk_holds_no_blob_and_no_classes(tmp_path, blob):
    store = Store.create(tmp_path / "store", trunk=samples.SEED_TRUNK, graph=samples.make_graph(), recipe={})
    assert verify_store(store) == {}
    metadata, blobs = read_part((store.path / PARTS[1]).read_bytes())
    for changed, held in ((metadata, {**blobs, blob: b"\1"}), (metadata | {"head_classes": 3}, blobs)):
        rehash(store.path, PARTS[1], write_part(changed, held))
        with pytest.raises(StoreError, match=f"{PARTS[1]}.*do not account for"):
            Store.open(store.path)


def test_verify_decodes_what_a_method_kept(store):
    """And the recipe and the validation numbers of every task: the hash of each comes back, and any that cannot be read is named."""
    assert verify_store(Store.open(store.path)) == {name: store.codes_hash(name) for name in "ab"}
    metadata, blobs = read_part((store.path / PARTS[3]).read_bytes())
    rehash(store.path, PARTS[3], write_part(metadata | {"validation": {"accuracy": "much"}}, blobs))
    with pytest.raises(StoreError, match=f"{PARTS[3]}.*expected a number"):
        verify_store(Store.open(store.path))


def no_memory(*_, **__):
    np.empty(1 << 60, np.uint8)


def test_a_part_that_does_not_fit_into_memory_is_not_called_damaged(store, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("tsn_toolkit.store.layer_blobs.decode_mask", no_memory)
        message = r"memory is too short to read part `tasks/000-a.safetensors` \(Unable to allocate.*machine that has more"
        with pytest.raises(StoreError, match=message) as raised:
            store.states("b")
    assert "damaged" not in str(raised.value) and store.states("b")


PACKED_READERS = {
    "read_bare_part": lambda image: JointImage.open(image.path),
    "BarePart.file": lambda image: image.files(),
    "BarePart.with_codes": lambda image: image.decode("a"),
}


@pytest.mark.parametrize("reader", PACKED_READERS)
def test_nor_is_a_part_of_a_packed_file(store, monkeypatch, tmp_path, reader):
    image = pack_store(store, tmp_path / "packed.tsn")
    monkeypatch.setattr(f"tsn_toolkit.store.packed_parts.{reader}", no_memory)
    with pytest.raises(StoreError, match=r"memory is too short to read part `trunk.safetensors` \(Unable to allocate") as raised:
        PACKED_READERS[reader](image)
    assert "damaged" not in str(raised.value)


def test_kill_9_during_commits_leaves_every_acknowledged_task(tmp_path):
    graph = samples.make_graph()
    path = tmp_path / "store"
    Store.create(path, trunk=samples.SEED_TRUNK, graph=graph, recipe={})
    draw = random.Random(5)
    acknowledged = []
    # Importing torch takes seconds, so each try is a fork of this process, killed at a random instant of its commits.
    context = multiprocessing.get_context("fork")
    for attempt in range(15):
        receive, send = context.Pipe(duplex=False)
        child = context.Process(target=_commit_for_ever, args=(path, send, attempt))
        child.start()
        send.close()
        assert receive.recv() == "ready"
        if attempt % 2:
            acknowledged.append(receive.recv())
        time.sleep(draw.uniform(0.0, 0.03))
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        try:
            while True:
                acknowledged.append(receive.recv())
        except EOFError:
            pass
        names = [entry.name for entry in Store.open(path).entries]
        assert set(acknowledged) <= set(names)
        assert Store.open(path).weights(names[-1]).name == names[-1] if names else True
    assert len(acknowledged) > 3


def _commit_for_ever(path, send, attempt):
    store = Store.open(path)
    send.send("ready")
    for number in range(1000):
        name = f"k{attempt}-{number}"
        result = replace(samples.make_task(store, name, seed=number, bit_width=1), isolation="none")
        store.commit(result, {})
        send.send(name)


@pytest.mark.parametrize("writes", [0, 1])
def test_a_commit_that_stops_after_any_write_leaves_the_store_as_it_was(store, monkeypatch, writes):
    done = []

    def stop_after(path, data):
        if len(done) == writes:
            raise KeyboardInterrupt
        done.append(path)
        write_atomic(path, data)

    monkeypatch.setattr("tsn_toolkit.store.store.write_atomic", stop_after)
    with pytest.raises(KeyboardInterrupt):
        store.commit(samples.make_task(store, "c", seed=4), {})
    monkeypatch.undo()
    assert [entry.name for entry in Store.open(store.path).entries] == ["a", "b"]
    Store.open(store.path).commit(samples.make_task(store, "c", seed=4), {})


def test_a_rehashed_part_that_keeps_no_unit_is_refused(store):
    metadata, blobs = read_part((store.path / PARTS[2]).read_bytes())
    rehash(store.path, PARTS[2], write_part(metadata, {**blobs, "masks": b"\0" + blobs["masks"][1:]}))
    with pytest.raises(StoreError, match=f"{PARTS[2]}.*keeps no unit of group `conv1`"):
        Store.open(store.path).weights("a")


def test_orphans_of_a_kill_are_ignored_and_go_with_the_next_commit(store):
    orphan = store.path / "tasks" / "002-x.safetensors"
    orphan.write_bytes(b"half a part")
    (store.path / "tasks" / ".incoming").write_bytes(b"half")
    opened = Store.open(store.path)
    opened.commit(samples.make_task(opened, "c", seed=4), {})
    assert sorted(file.name for file in (store.path / "tasks").iterdir()) == ["000-a.safetensors", "001-b.safetensors", "002-c.safetensors"]


def test_a_killed_creation_can_be_repeated(tmp_path):
    folder = tmp_path / "store"
    (folder / "tasks").mkdir(parents=True)
    (folder / "trunk.safetensors").write_bytes(b"half")
    graph = samples.make_graph()
    with pytest.raises(StoreError, match="there is no `manifest.json`"):
        Store.open(folder)
    Store.create(folder, trunk=samples.make_trunk(graph), graph=graph, recipe={})
    with pytest.raises(StoreError, match="holds a store already"):
        Store.create(folder, trunk=samples.make_trunk(graph), graph=graph, recipe={})
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(StoreError, match="notes.txt"):
        Store.create(tmp_path / "other", trunk=samples.make_trunk(graph), graph=graph, recipe={})


def test_two_writers(store):
    first, second = Store.open(store.path), Store.open(store.path)
    with writer_lock(store.path), pytest.raises(StoreError, match="another process is writing"):
        first.commit(samples.make_task(first, "c", seed=4), {})
    first.commit(samples.make_task(first, "c", seed=4), {})
    with pytest.raises(StoreError, match="changed this store since it was opened"):
        second.commit(samples.make_task(second, "d", seed=5), {})
    assert [entry.name for entry in Store.open(store.path).entries] == ["a", "b", "c"]
