"""The store's folder: whole files or nothing, and one writer at a time."""

import fcntl
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tsn_toolkit.errors import StoreError

MANIFEST = "manifest.json"
TRUNK_PART = "trunk.safetensors"
TASKS = "tasks"
INCOMING = ".incoming"
"""Name of a file that is being written; one that a kill left behind is overwritten by the next write."""


def task_path(index: int, name: str) -> str:
    """Path of a task's part inside the folder."""
    return f"{TASKS}/{index:03d}-{name}.safetensors"


def write_atomic(path: Path, data: bytes) -> None:
    """Writes a file so that after any kill or power cut it is either whole or absent (or as it was).

    Raises:
        StoreError: the disk is full or the folder cannot be written; nothing is left behind.
    """
    incoming = path.parent / INCOMING
    try:
        with incoming.open("wb") as handle:
            handle.write(data)
            handle.flush()
            os.fsync(handle.fileno())
        incoming.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        with suppress(OSError):
            incoming.unlink()
        reason = error.strerror or type(error).__name__
        raise StoreError(f"{path}: {len(data)} bytes cannot be written ({reason}). What was there before stays; make room and retry.") from error


@contextmanager
def writer_lock(path: Path) -> Iterator[None]:
    """Holds the folder for one writer; the lock is the folder itself, so that it costs no file, and ends with the process.

    Raises:
        StoreError: another writer holds it, or there is no such folder.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise StoreError(f"{path}: no folder to write a store into ({error.strerror})") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        raise StoreError(f"{path}: another process is writing this store. Wait until it is done, then open the store again.") from error
    try:
        yield
    finally:
        os.close(handle)


def prepare_folder(path: Path) -> None:
    """Makes the folder of a new store, if need be.

    Raises:
        StoreError: a file stands in its place.
    """
    if path.exists() and not path.is_dir():
        raise StoreError(f"{path}: a file stands where the store's folder should be. Choose another path.")
    path.mkdir(parents=True, exist_ok=True)
    _sync_folder(path.parent)


def claim_folder(path: Path) -> None:
    """Checks, under the writer's lock, that a folder is free for a new store; what a killed creation left behind may stay.

    Raises:
        StoreError: it holds a store or anything else.
    """
    if (path / MANIFEST).exists():
        raise StoreError(f"{path}: holds a store already. Open it, or choose another path.")
    allowed = {TRUNK_PART, TASKS, INCOMING}
    others = sorted(entry.name for entry in path.iterdir() if entry.name not in allowed)
    others += sorted(f"{TASKS}/{entry.name}" for entry in (path / TASKS).glob("*"))
    if others:
        raise StoreError(f"{path}: not an empty folder ({others[0]}). Choose another path.")
    (path / TASKS).mkdir(exist_ok=True)
    _sync_folder(path)


def remove_orphans(path: Path, living: Collection[str]) -> None:
    """Removes parts that the manifest does not name: a kill left them."""
    for part in sorted((path / TASKS).glob("[0-9][0-9][0-9]*-*.safetensors")):
        if f"{TASKS}/{part.name}" not in living:
            part.unlink()


def read_bytes(path: Path, part: str) -> bytes:
    """Reads a file of the folder.

    Raises:
        StoreError: it is missing or unreadable.
    """
    try:
        return (path / part).read_bytes()
    except OSError as error:
        raise StoreError(f"{path}: part `{part}` cannot be read ({error.strerror}). Restore it from a copy of the store.") from error


def _sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
