"""The parts of a packed store: what stands of each behind the words, and how it becomes whole again with codes out of the words.

Parts of isolation `none`, which own no bits of a word, stand there whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tsn_toolkit.errors import StoreError
from tsn_toolkit.store.folder import MANIFEST, TASKS
from tsn_toolkit.store.image_file import ImageFile, Rest
from tsn_toolkit.store.manifest import Manifest, PartEntry, TaskEntry, hash_bytes, parse_manifest
from tsn_toolkit.store.part import PartError
from tsn_toolkit.store.part_files import memory_is_short
from tsn_toolkit.store.part_values import BarePart, read_bare_part
from tsn_toolkit.store.store import Store
from tsn_toolkit.vocabulary import TRUNK

Entry = PartEntry | TaskEntry
Codes = Mapping[str, Sequence[NDArray[np.uint8]]]
"""Owner -> its codes, one array for each run of codes in its part."""

_CHANGED = "it does not come back with the SHA-256 that the manifest says: its codes were changed, or another version of `zstandard` coded them"
_DAMAGE = (ValueError, KeyError, TypeError, IndexError, OverflowError)


@dataclass(frozen=True)
class PackedParts:
    """What stands behind the words of an opened packed file.

    Attributes:
        path: of the packed file, for messages.
        rests: path in the store's folder -> what is left of that file.
        manifest: of the store inside.
        bare: path -> the part without codes; None for a part that stands whole.
    """

    path: Path
    rests: Mapping[str, Rest]
    manifest: Manifest
    bare: Mapping[str, BarePart | None]

    @classmethod
    def read(cls, path: Path, file: ImageFile) -> PackedParts:
        """Reads the manifest and every part of a packed file.

        Raises:
            StoreError: one of them is damaged, they are not those of the header, or they claim more codes than the words hold.
        """
        if MANIFEST not in file.rests:
            raise StoreError(f"{path}: not an intact packed store: it holds no `{MANIFEST}`. Pack the store again.")
        manifest = parse_manifest(path, file.rests[MANIFEST].data)
        entries = parts_of(manifest)
        if list(file.rests) != [MANIFEST, *(entry.path for entry in entries)]:
            raise StoreError(f"{path}: `{MANIFEST}` names other files than the {len(file.rests)} of the header. Pack the store again.")
        bare = {entry.path: _read_part(path, entry, file.rests[entry.path]) for entry in entries}
        claimed_bits = sum(run.count * max(run.bits, 1) for part in bare.values() if part is not None for run in part.runs)
        if claimed_bits > sum(words.count * words.width for words in file.words.values()):
            raise StoreError(f"{path}: its parts `{TASKS}/...` claim more codes than its words can hold. Pack the store again.")
        return cls(path, file.rests, manifest, bare)

    def store(self, codes: Codes) -> Store:
        """The store inside, in memory, whose parts hold these codes."""
        return Store(self.path, self.manifest, self.rests[MANIFEST].data, read=lambda _, entry: self._whole(entry, codes))

    def store_without_codes(self) -> Store:
        """The store inside with every code 0: its masks, owners and lineages are right, its weights are not."""
        entries = [entry for entry in parts_of(self.manifest) if self.bare[entry.path] is not None]
        return self.store({owner_name(entry): [np.zeros(count, np.uint8) for count in self.rests[entry.path].counts] for entry in entries})

    def files(self, codes: Codes) -> dict[str, bytes]:
        """Every file of the store, byte for byte, by its path in the folder.

        Raises:
            StoreError: a part does not have the hash that the manifest says.
        """
        files = {MANIFEST: self.rests[MANIFEST].data}
        for entry in parts_of(self.manifest):
            part = self.bare[entry.path]
            try:
                data = self.rests[entry.path].data if part is None else part.file(codes[owner_name(entry)])
            except MemoryError as error:
                raise memory_is_short(self.path, entry, error) from error
            except _DAMAGE as error:
                raise _damaged(self.path, entry, error) from error
            if len(data) != entry.size_bytes or hash_bytes(data) != entry.sha256:
                raise _damaged(self.path, entry, ValueError(_CHANGED))
            files[entry.path] = data
        return files

    def check_counts(self, counts: Mapping[str, Sequence[int]]) -> None:
        """Compares numbers of codes, owner -> one for each of its runs, with what the header says.

        Raises:
            StoreError: they differ.
        """
        for entry in parts_of(self.manifest):
            if not is_beside(entry) and tuple(counts[owner_name(entry)]) != self.rests[entry.path].counts:
                raise StoreError(f"{self.path}: part `{entry.path}` has other numbers of codes than the header says. Pack the store again.")

    def _whole(self, entry: Entry, codes: Codes) -> bytes:
        part = self.bare[entry.path]
        if part is None:
            return self.rests[entry.path].data
        try:
            return part.with_codes(codes[owner_name(entry)])
        except MemoryError as error:
            raise memory_is_short(self.path, entry, error) from error
        except _DAMAGE as error:
            raise _damaged(self.path, entry, error) from error


def parts_of(manifest: Manifest) -> tuple[Entry, ...]:
    """Every part that a manifest names: the trunk, then the tasks in order of their commits."""
    return (manifest.trunk, *manifest.entries)


def is_beside(entry: Entry) -> bool:
    """Whether a part owns no bits of words and stands whole."""
    return isinstance(entry, TaskEntry) and entry.isolation == "none"


def owner_name(entry: Entry) -> str:
    """Name of the owner that a part belongs to."""
    return entry.name if isinstance(entry, TaskEntry) else TRUNK


def owners_of_words(manifest: Manifest) -> list[str]:
    """Whose codes are in the words, in order of their bits."""
    return [owner_name(entry) for entry in parts_of(manifest) if not is_beside(entry)]


def _read_part(path: Path, entry: Entry, rest: Rest) -> BarePart | None:
    try:
        part = None if is_beside(entry) else read_bare_part(rest.data, rest.counts)
        if part is None and rest.counts:
            raise PartError("it stands whole, but the header gives it codes in the words")
    except MemoryError as error:
        raise memory_is_short(path, entry, error) from error
    except _DAMAGE as error:
        raise _damaged(path, entry, error) from error
    return part


def _damaged(path: Path, entry: Entry, error: BaseException) -> StoreError:
    return StoreError(f"{path}: part `{entry.path}` is damaged: {error or type(error).__name__}. Pack the store again.")
