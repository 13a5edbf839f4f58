"""manifest.json: which parts belong to the store, with their hashes. Canonical JSON; the one file that is ever replaced."""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tsn_toolkit.errors import StoreError
from tsn_toolkit.store.checks import valid_name
from tsn_toolkit.store.folder import MANIFEST, TRUNK_PART, read_bytes, task_path
from tsn_toolkit.store.part import SCHEMA_VERSION, canonical_json
from tsn_toolkit.vocabulary import TRUNK, Isolation


@dataclass(frozen=True)
class PartEntry:
    """A file of the store: path inside the folder, hash of its bytes in hex, size."""

    path: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class TaskEntry:
    """A committed task.

    Attributes:
        name, parent, isolation, strategy: as committed.
        path: of its part inside the folder.
        sha256: of its part, hex.
        size_bytes: of its part.
        index: number in its path, ascending; a retired task leaves a gap.
    """

    name: str
    parent: str
    isolation: Isolation
    strategy: str
    path: str
    sha256: str
    size_bytes: int
    index: int


@dataclass(frozen=True)
class Manifest:
    """The trunk's file and the tasks in order of their commits."""

    trunk: PartEntry
    entries: tuple[TaskEntry, ...]

    def to_bytes(self) -> bytes:
        """The file's bytes."""
        body: dict[str, Any] = {
            "schema": SCHEMA_VERSION,
            "trunk": asdict(self.trunk),
            "tasks": [_row(entry) for entry in self.entries],
        }
        return _with_hash(body)


def marginal_bytes(entries: Sequence[TaskEntry]) -> dict[str, int]:
    """By task, the bytes that it adds to the store's folder: its part and its row in the manifest.

    The comma between two rows counts to the later one. So a commit makes the folder larger by just this number, and these numbers, the trunk and the
    manifest of a store without tasks make up the folder.
    """
    return {entry.name: entry.size_bytes + len(canonical_json(_row(entry))) + (entry is not entries[0]) for entry in entries}


def hash_bytes(data: bytes) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(data).hexdigest()


def read_manifest(path: Path) -> tuple[Manifest, bytes]:
    """Reads and checks a store's manifest.

    Returns:
        The manifest and the file's bytes.

    Raises:
        StoreError: it is missing, damaged, or of another schema version.
    """
    if not (path / MANIFEST).is_file():
        inside = path / "store"
        what_to_do = f"It is a run's folder: give {inside}." if (inside / MANIFEST).is_file() else "Give the folder `store` that a run wrote."
        raise StoreError(f"{path}: not a store, there is no `{MANIFEST}`. {what_to_do}")
    data = read_bytes(path, MANIFEST)
    return parse_manifest(path, data), data


def parse_manifest(path: Path, data: bytes) -> Manifest:
    """Checks a manifest's bytes; `path` is the store or the packed file that they come from.

    Raises:
        StoreError: they are damaged, or of another schema version.
    """
    try:
        body = json.loads(data)
        claimed = body.pop("sha256")
        if body["schema"] != SCHEMA_VERSION:
            raise StoreError(f"{path}: `{MANIFEST}` has schema version {body['schema']!r:.20}, this version reads {SCHEMA_VERSION}")
        if _with_hash(body) != data or not isinstance(claimed, str):
            raise ValueError("its own hash does not match its content")
        trunk = _entry(PartEntry, body["trunk"], path=TRUNK_PART)
        entries = tuple(_task_entry(row) for row in body["tasks"])
        _check_lineage(entries)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise StoreError(f"{path}: `{MANIFEST}` is damaged ({error}). Restore it from a copy of the store.") from error
    return Manifest(trunk, entries)


def _row(entry: TaskEntry) -> dict[str, Any]:
    return {key: value for key, value in asdict(entry).items() if key != "index"}


def _with_hash(body: dict[str, Any]) -> bytes:
    return canonical_json({**body, "sha256": hash_bytes(canonical_json(body).encode())}).encode()


def _task_entry(row: dict[str, Any]) -> TaskEntry:
    number = re.match(r"tasks/([0-9]{3,9})-", row["path"], re.ASCII)
    index = int(number[1]) if number else 0
    entry: TaskEntry = _entry(TaskEntry, {**row, "index": index}, path=task_path(index, row["name"]))
    return entry


def _entry(kind: type, row: dict[str, Any], *, path: str) -> Any:
    entry = kind(**row)
    if entry.path != path:
        raise ValueError(f"a part's path must be `{path}`")
    texts = [value for key, value in row.items() if key not in ("size_bytes", "index")]
    if not all(isinstance(value, str) for value in texts) or not isinstance(entry.size_bytes, int):
        raise ValueError(f"the entry of `{path}` has a field of a wrong type")
    return entry


def _check_lineage(entries: tuple[TaskEntry, ...]) -> None:
    known = {TRUNK}
    last = -1
    for entry in entries:
        if entry.index <= last:
            raise ValueError(f"the number of `{entry.path}` does not ascend")
        last = entry.index
        if not valid_name(entry.name) or entry.name in known or entry.isolation not in ("exact", "none"):
            raise ValueError(f"`{entry.path}` has a name or isolation that no task may have")
        if entry.parent not in known:
            raise ValueError(f"`{entry.path}` has parent `{entry.parent}`, which is no earlier task")
        known.add(entry.name)
