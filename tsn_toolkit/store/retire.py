"""Retiring a task: the manifest forgets it, then its part goes. No other byte of the store changes."""

from dataclasses import replace
from pathlib import Path

from tsn_toolkit.errors import StoreError
from tsn_toolkit.store.answering import check_answers_for_itself
from tsn_toolkit.store.folder import MANIFEST, remove_orphans, write_atomic, writer_lock
from tsn_toolkit.store.manifest import TaskEntry, read_manifest
from tsn_toolkit.store.store import Store
from tsn_toolkit.vocabulary import TRUNK


def retire_task(path: Path | str, task: str) -> TaskEntry:
    """Removes a task that no other task inherits from or answers through; its bits are free for the next commit.

    A kill at any instant leaves the store with the task or without it. A part that the kill left is ignored and goes with the next commit. A damaged
    part can be retired too.

    Args:
        path: the store's folder.
        task: name of the task.

    Returns:
        The entry that the task had.

    Raises:
        StoreError: there is no such task, a task inherits from it, it answers for another or another for it, the manifest is damaged, or another
            process writes.
    """
    path = Path(path)
    with writer_lock(path):
        manifest, _ = read_manifest(path)
        names = [entry.name for entry in manifest.entries]
        if task == TRUNK:
            raise StoreError(f"{path}: the trunk cannot be retired, every task stands on it. Remove the store instead.")
        if task not in names:
            raise StoreError(f"{path}: no task `{task}`; the store holds {names}")
        children = [entry.name for entry in manifest.entries if entry.parent == task]
        if children:
            raise StoreError(f"{path}: `{task}` cannot be retired, its bits are read by its children {children}. Retire those first.")
        if any(entry.isolation == "none" for entry in manifest.entries):
            check_answers_for_itself(Store.open(path, check=False), task)
        retired = manifest.entries[names.index(task)]
        remaining = replace(manifest, entries=tuple(entry for entry in manifest.entries if entry is not retired))
        remove_orphans(path, {entry.path for entry in manifest.entries})
        write_atomic(path / MANIFEST, remaining.to_bytes())
        remove_orphans(path, {entry.path for entry in remaining.entries})
    return retired
