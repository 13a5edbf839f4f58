"""The parts of a store, opened when first needed: hashes checked, and whatever is wrong with a part's bytes reported with its name."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tsn_toolkit.errors import StoreError
from tsn_toolkit.store.folder import read_bytes
from tsn_toolkit.store.manifest import Manifest, PartEntry, TaskEntry, hash_bytes
from tsn_toolkit.store.owner_part import OwnerPart
from tsn_toolkit.store.part import bytes_source, file_source, open_part
from tsn_toolkit.store.task_part import open_task
from tsn_toolkit.store.trunk_part import open_trunk
from tsn_toolkit.vocabulary import TRUNK

Entry = PartEntry | TaskEntry

# What decoding damaged bytes can raise; anything else is a fault of ours and keeps its traceback.
_DAMAGE = (ValueError, KeyError, TypeError, IndexError, OverflowError)

_CHUNK = 1 << 20


class PartFiles:
    """The files of one manifest.

    Attributes:
        path: the store's folder, or the packed file.
        manifest: what belongs to the store.
    """

    def __init__(self, path: Path, manifest: Manifest, read: Callable[[Path, Entry], bytes] | None = None) -> None:
        """Nothing is read yet; `read` gives the bytes of a part that lies elsewhere than in the folder."""
        self.path = path
        self.manifest = manifest
        self._read = read
        self._opened: dict[str, OwnerPart] = {}
        self._checked: set[str] = set()

    @property
    def owners(self) -> tuple[str, ...]:
        """The trunk, then the tasks in order of their commits."""
        return (TRUNK, *(entry.name for entry in self.manifest.entries))

    def task(self, name: str) -> TaskEntry:
        """The entry of a task.

        Raises:
            StoreError: there is no such task.
        """
        for entry in self.manifest.entries:
            if entry.name == name:
                return entry
        raise StoreError(f"{self.path}: no task `{name}`; the store holds {[entry.name for entry in self.manifest.entries]}")

    def chain(self, owner: str) -> tuple[str, ...]:
        """Names from the trunk to `owner`, both included."""
        names = [owner]
        while names[-1] != TRUNK:
            names.append(self.task(names[-1]).parent)
        return tuple(reversed(names))

    def with_task(self, entry: TaskEntry) -> PartFiles:
        """The same with one task more; what is open stays open."""
        files = PartFiles(self.path, Manifest(self.manifest.trunk, (*self.manifest.entries, entry)), self._read)
        files._opened, files._checked = dict(self._opened), set(self._checked)
        return files

    def open(self, owner: str) -> OwnerPart:
        """The opened part of the trunk or a task.

        Raises:
            StoreError: there is no such owner, or its part or one of its chain is damaged; the message names the part.
        """
        for name in self.chain(owner):
            if name not in self._opened:
                self._opened[name] = self._open(name)
        return self._opened[owner]

    def bytes_of(self, entry: Entry) -> bytes:
        """The bytes of a part, hash checked.

        Raises:
            StoreError: the part is missing or damaged.
        """
        if self._read is not None:
            return self._read(self.path, entry)
        data = read_bytes(self.path, entry.path)
        self._compare(entry, len(data), hash_bytes(data))
        return data

    def check(self, entry: Entry) -> None:
        """Checks the size and the hash of a part's file, a piece at a time.

        Raises:
            StoreError: the part is missing or damaged.
        """
        digest, size_bytes = hashlib.sha256(), 0
        try:
            with (self.path / entry.path).open("rb", buffering=0) as handle:
                chunk = min(_CHUNK, entry.size_bytes + 1)
                while piece := handle.read(chunk):
                    digest.update(piece)
                    size_bytes += len(piece)
        except OSError as error:
            raise StoreError(f"{self.path}: part `{entry.path}` cannot be read ({error.strerror}). Restore it from a copy of the store.") from error
        self._compare(entry, size_bytes, digest.hexdigest())
        self._checked.add(entry.path)

    @contextmanager
    def naming(self, owner: str) -> Iterator[None]:
        """Turns what damaged bytes raise, and a lack of memory, into an error that names the owner's part."""
        try:
            yield
        except StoreError:
            raise
        except MemoryError as error:
            raise memory_is_short(self.path, self._entry(owner), error) from error
        except _DAMAGE as error:
            raise self._damaged(self._entry(owner), error) from error
        except OSError as error:
            raise self._damaged(self._entry(owner), error) from error

    def _open(self, owner: str) -> OwnerPart:
        entry = self._entry(owner)
        if self._read is None:
            if entry.path not in self._checked:
                self.check(entry)
            source, size_bytes = file_source(self.path / entry.path), entry.size_bytes
        else:
            data = self._read(self.path, entry)
            source, size_bytes = bytes_source(data), len(data)
        with self.naming(owner):
            part = open_part(source, size_bytes)
            if not isinstance(entry, TaskEntry):
                return open_trunk(part)
            parent = self._opened[entry.parent]
            opened = open_task(parent.architecture, parent, part)
            if any(opened.metadata[key] != getattr(entry, key) for key in ("name", "isolation", "strategy")):
                raise ValueError("its metadata do not match the manifest")
        return opened

    def _entry(self, owner: str) -> Entry:
        return self.manifest.trunk if owner == TRUNK else self.task(owner)

    def _compare(self, entry: Entry, size_bytes: int, sha256: str) -> None:
        if size_bytes != entry.size_bytes:
            raise self._damaged(entry, ValueError(f"it has {size_bytes} bytes, the manifest says {entry.size_bytes}"))
        if sha256 != entry.sha256:
            raise self._damaged(entry, ValueError(f"its SHA-256 is {sha256}, the manifest says {entry.sha256}"))

    def _damaged(self, entry: Entry, error: BaseException) -> StoreError:
        reason = str(error) or type(error).__name__
        return StoreError(f"{self.path}: part `{entry.path}` is damaged: {reason}. Restore it from a copy of the store.")


def memory_is_short(path: Path, entry: Entry, error: MemoryError) -> StoreError:
    """What is said of a part that does not fit into memory, which may be intact."""
    reason = f" ({error})" if str(error) else ""
    return StoreError(f"{path}: memory is too short to read part `{entry.path}`{reason}. Free some, or read the store on a machine that has more.")
