"""Kills, writers at the same time, and full disks: every committed task stays as it was."""

import multiprocessing
import os
import re
import resource
import signal
import subprocess
from multiprocessing.connection import Connection

import mixed_store
import pytest
from store_kills import kill_rounds

from tsn_toolkit.errors import StoreError
from tsn_toolkit.store.folder import write_atomic
from tsn_toolkit.store.retire import retire_task
from tsn_toolkit.store.store import Store

FORK = multiprocessing.get_context("fork")


def hashes(path):
    store = Store.open(path)
    return {entry.name: store.codes_hash(entry.name) for entry in store.entries}


def test_kill_9_at_random_instants_of_commits_and_retirements(tmp_path):
    counts = kill_rounds(tmp_path / "store", 16, seed=3)
    assert counts["kills"] == 16 and counts["actions"] > 16 and counts["a part of an action"] > 0


def _commit_at_once(path, name, start, send: Connection):
    store = Store.open(path)
    result = mixed_store.mixed_task(store, name, parent="c")
    start.wait()
    try:
        store.commit(result, {})
        send.send("")
    except StoreError as error:
        send.send(str(error))


def test_two_writers_at_the_same_time(tmp_path):
    path = tmp_path / "store"
    mixed_store.make_mixed_store(path, tasks="abc")
    for attempt in range(8):
        before = hashes(path)
        start = FORK.Barrier(2)
        receive, send = FORK.Pipe(duplex=False)
        writers = [FORK.Process(target=_commit_at_once, args=(path, f"{name}{attempt}", start, send)) for name in "pq"]
        for writer in writers:
            writer.start()
        answers = sorted(receive.recv() for _ in writers)
        for writer in writers:
            writer.join()
        assert answers[0] == "" and re.search("another process (is writing this store|changed this store since)", answers[1]), answers
        after = hashes(path)
        assert len(after) == len(before) + 1 and {name: after[name] for name in before} == before


@pytest.fixture
def small_disk(tmp_path):
    """A tmpfs of 32 pages; skips where mounting is not allowed."""
    folder = tmp_path / "disk"
    folder.mkdir()
    page = resource.getpagesize()
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small tmpfs")
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={32 * page}", "tmpfs", str(folder)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"a small tmpfs cannot be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_full_disk(small_disk):
    path, page, filler = small_disk / "store", resource.getpagesize(), small_disk / "filler"
    mixed_store.make_mixed_store(path)
    for free_pages, where in ((0, "006-g0.safetensors"), (1, "manifest.json")):
        before = hashes(path)
        status = os.statvfs(small_disk)
        filler.write_bytes(b"x" * (status.f_bavail * status.f_frsize - free_pages * page))
        store = Store.open(path)
        with pytest.raises(StoreError, match=f"{where}: .*cannot be written .No space left on device."):
            store.commit(mixed_store.mixed_task(store, f"g{free_pages}", parent="c"), {})
        assert hashes(path) == before and not list(path.rglob(".incoming"))
        if not free_pages:
            with pytest.raises(StoreError, match="manifest.json: .*No space left on device"):
                retire_task(path, "f")
            assert hashes(path) == before
        filler.unlink()
        opened = Store.open(path)
        opened.commit(mixed_store.mixed_task(opened, f"h{free_pages}", parent="c"), {})
        assert hashes(path) == {**before, f"h{free_pages}": hashes(path)[f"h{free_pages}"]}
        retire_task(path, f"h{free_pages}")


def test_a_retirement_makes_its_own_room(small_disk):
    """The orphan of a commit that found the disk full goes first."""
    path, page = small_disk / "store", resource.getpagesize()
    mixed_store.make_mixed_store(path)
    status = os.statvfs(small_disk)
    (small_disk / "filler").write_bytes(b"x" * (status.f_bavail * status.f_frsize - page))
    store = Store.open(path)
    with pytest.raises(StoreError, match="manifest.json"):
        store.commit(mixed_store.mixed_task(store, "g", parent="c"), {})
    retire_task(path, "f")
    assert sorted(hashes(path)) == ["a", "b", "c", "d", "e"]


def _commit_with_small_files(path, limit, send: Connection):
    store = Store.open(path)
    result = mixed_store.mixed_task(store, "g", parent="c")
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        store.commit(result, {})
        send.send("")
    except StoreError as error:
        send.send(str(error))


@pytest.mark.parametrize("limit", [0, 300, 1100])
def test_a_write_that_stops_in_the_middle(tmp_path, limit):
    """As a full disk, where nobody is root: no file may grow beyond the limit, which the part (300) or the manifest (1100) needs."""
    path = tmp_path / "store"
    mixed_store.make_mixed_store(path)
    before = hashes(path)
    receive, send = FORK.Pipe(duplex=False)
    child = FORK.Process(target=_commit_with_small_files, args=(path, limit, send))
    child.start()
    child.join()
    assert re.search(("manifest.json" if limit == 1100 else "006-g.safetensors") + ": .*cannot be written .File too large", receive.recv())
    assert hashes(path) == before and not list(path.rglob(".incoming"))
    opened = Store.open(path)
    opened.commit(mixed_store.mixed_task(opened, "g", parent="c"), {})
    assert sorted(hashes(path)) == sorted([*before, "g"])


def test_what_cannot_be_written_leaves_the_old_file(tmp_path):
    (tmp_path / "file").write_bytes(b"old")
    (tmp_path / ".incoming").mkdir()
    with pytest.raises(StoreError, match="file: 3 bytes cannot be written .Is a directory."):
        write_atomic(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"old"
