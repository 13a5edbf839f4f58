"""The joint image: a store in one file, in which the codes of all owners lie together in one array of words per layer.

The rest of each part (masks, codebooks, scales, ...) stands behind the words as it is. Parts of isolation `none`, which own no bits of a word, stand
there whole. The byte layout is in docs/joint-image.md.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tsn_toolkit.contracts import TaskWeights
from tsn_toolkit.errors import StoreError
from tsn_toolkit.files import write_bytes
from tsn_toolkit.store.folder import MANIFEST, TASKS, write_atomic
from tsn_toolkit.store.image_file import ImageFile, Rest, image_from_bytes, image_to_bytes, is_image
from tsn_toolkit.store.joint_layout import LayerLayout, lay_out
from tsn_toolkit.store.lineage import OwnerLayer
from tsn_toolkit.store.manifest import Manifest, PartEntry, TaskEntry, hash_bytes, parse_manifest
from tsn_toolkit.store.part import PartError
from tsn_toolkit.store.part_values import BarePart, cut_codes, read_bare_part
from tsn_toolkit.store.store import Store
from tsn_toolkit.store.words import Words
from tsn_toolkit.vocabulary import TRUNK, SlotState

Entry = PartEntry | TaskEntry

_CHANGED = "it does not come back with the SHA-256 that the manifest says: its codes were changed, or another version of `zstandard` coded them"
_DAMAGE = (ValueError, KeyError, TypeError, IndexError, OverflowError)


def pack_store(store: Store, file: Path | str, tasks: Collection[str] | None = None) -> JointImage:
    """Writes a store as one file, the same bytes for the same store.

    Args:
        store: the store.
        file: the packed file; an older packed file is replaced.
        tasks: names of the tasks that a device needs; they come with their chains and nothing else. None: the whole store.

    Raises:
        StoreError: there is no such task, another file stands there, a part is damaged or was not written by this version, or the disk is full.
    """
    file = Path(file)
    wanted = {name for task in (store.entry(task).name for task in tasks) for name in store.chain(task)} if tasks is not None else None
    entries = tuple(entry for entry in store.entries if wanted is None or entry.name in wanted)
    manifest = Manifest(store.trunk_entry, entries)
    words, counts = {}, {name: list[int]() for name in owners_of_words(manifest)}
    for layer, owners in store.layers_of_all():
        layout = lay_out(layer, ((name, held) for name, held in owners if name in counts))
        words[layer.name] = layout.words()
        for codes in layout.fields:
            counts[codes.owner].append(len(codes.slots))
    files = {entry.path: store.part_bytes(entry) for entry in parts_of(manifest)}
    rests = {MANIFEST: Rest(manifest.to_bytes())}
    for entry in parts_of(manifest):
        if is_beside(entry):
            rests[entry.path] = Rest(files[entry.path])
        else:
            rests[entry.path] = Rest(cut_codes(files[entry.path], counts[owner_name(entry)]), tuple(counts[owner_name(entry)]))
    data = image_to_bytes(ImageFile(words, rests))
    image = JointImage.from_bytes(data, file)
    image.files()  # raises where a part does not come back byte for byte
    _write_packed(file, data)
    return image


def unpack_store(file: Path | str, folder: Path | str) -> Store:
    """Writes the store in a packed file as a folder, byte for byte as it was packed; the folder appears whole or not at all.

    Args:
        file: the packed file.
        folder: does not exist yet or is empty.

    Raises:
        StoreError: the file is damaged, the folder is taken, or the disk is full.
    """
    folder = Path(folder).resolve()
    files = JointImage.open(file).files()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise StoreError(f"{folder}: exists and is not an empty folder. Choose another path.")
    incoming = folder.with_name(f".{folder.name}.part")
    try:
        shutil.rmtree(incoming, ignore_errors=True)
        (incoming / TASKS).mkdir(parents=True)
        for path, data in files.items():
            write_atomic(incoming / path, data)
        incoming.replace(folder)
    except OSError as error:
        raise StoreError(f"{folder}: cannot be written ({error.strerror or error}). Choose another path or make room.") from error
    finally:
        shutil.rmtree(incoming, ignore_errors=True)
    return Store.open(folder)


@dataclass(frozen=True)
class JointImage:
    """An opened packed file.

    Attributes:
        path: the file.
        file: its sections.
        manifest: of the store inside.
        bare: path -> the part without codes; None for a part that stands whole.
        masks: the store inside with every code 0: its masks, owners and lineages are right, its weights are not.
    """

    path: Path
    file: ImageFile
    manifest: Manifest
    bare: Mapping[str, BarePart | None]
    masks: Store
    _layer: dict[str, tuple[LayerLayout, dict[str, OwnerLayer]]] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def open(cls, path: Path | str) -> JointImage:
        """Opens a packed file and checks every hash and every mask, and that words and masks agree.

        Raises:
            StoreError: it is no packed file, or a section of it is damaged; the message names the section.
        """
        try:
            data = Path(path).read_bytes()
        except OSError as error:
            raise StoreError(f"{path}: cannot be read ({error.strerror}). Give a file that `tsn pack` wrote.") from error
        return cls.from_bytes(data, Path(path))

    @classmethod
    def from_bytes(cls, data: bytes, path: Path) -> JointImage:
        """Opens a packed file that is in memory; errors name `path`."""
        try:
            file = image_from_bytes(data)
            if MANIFEST not in file.rests:
                raise PartError(f"it holds no `{MANIFEST}`")
        except PartError as error:
            raise StoreError(f"{path}: not an intact packed store: {error}. Pack the store again.") from error
        manifest = parse_manifest(path, file.rests[MANIFEST].data)
        bare = _bare_parts(path, file, manifest)
        masks = _store(path, file, manifest, bare, _zeros(file, manifest, bare))
        image = cls(path, file, manifest, bare, masks)
        image._check()
        return image

    @property
    def entries(self) -> tuple[TaskEntry, ...]:
        """The tasks in order of their commits."""
        return self.manifest.entries

    def words(self, layer: str) -> Words:
        """The words of a layer."""
        return self.file.words[layer]

    def decode(self, task: str) -> TaskWeights:
        """A task's weights, its codes and those of its chain read from the words.

        Raises:
            StoreError: there is no such task.
        """
        return self.store(self.masks.chain(task)).weights(task)

    def store(self, owners: Collection[str] | None = None) -> Store:
        """The store inside, to read only, its codes read from the words.

        Args:
            owners: whose codes are read; only they can be decoded. None: everybody's.
        """
        return _store(self.path, self.file, self.manifest, self.bare, self._codes(owners))

    def files(self) -> dict[str, bytes]:
        """Every file of the store, byte for byte, by its path in the folder.

        Raises:
            StoreError: a part does not have the hash that the manifest says.
        """
        files = {MANIFEST: self.file.rests[MANIFEST].data}
        codes = self._codes(None)
        for entry in parts_of(self.manifest):
            part = self.bare[entry.path]
            try:
                data = self.file.rests[entry.path].data if part is None else part.file(codes[owner_name(entry)])
            except _DAMAGE as error:
                raise _damaged(self.path, entry, error) from error
            if len(data) != entry.size_bytes or hash_bytes(data) != entry.sha256:
                raise _damaged(self.path, entry, ValueError(_CHANGED))
            files[entry.path] = data
        return files

    def describe(self) -> dict[str, Any]:
        """Sizes, as `tsn inspect FILE --json` prints them.

        Returns:
            `layers`: name, words, word_bits, bytes, own_bits of each owner; `parts`: path and bytes of what stands behind the words; `tasks`: name,
            parent; `total_bytes` of the file.
        """
        layers = []
        for name, layout in self._layouts():
            words = self.words(name)
            own_bits = dict.fromkeys(owners_of_words(self.manifest), 0)
            for codes in layout.fields:
                own_bits[codes.owner] += len(codes.slots) * codes.bits
            layers.append(
                {"name": name, "words": words.count, "word_bits": words.width, "bytes": len(words.to_bytes()), "own_bits": own_bits}
            )
        return {
            "layers": layers,
            "parts": [{"path": path, "bytes": len(rest.data)} for path, rest in self.file.rests.items()],
            "tasks": [{"name": entry.name, "parent": entry.parent} for entry in self.entries],
            "total_bytes": len(image_to_bytes(self.file)),
        }

    def owner_of(self, layer: str, slot: int, bit: int) -> str | None:
        """Who owns a bit of a slot's word; None where nobody does.

        Args:
            layer: its name.
            slot: flat index of the slot in C order.
            bit: of the word, 0 the least significant.
        """
        for codes in self._layout(layer).fields:
            place = int(np.searchsorted(codes.slots, slot))
            if place < len(codes.slots) and codes.slots[place] == slot and 0 <= bit - int(codes.offsets[place]) < codes.bits:
                return codes.owner
        return None

    def readers_of(self, layer: str, slot: int, bit: int) -> tuple[str, ...]:
        """The tasks other than its owner whose weight at the slot this bit takes part in, in order of their commits."""
        owner = self.owner_of(layer, slot, bit)
        others = [entry.name for entry in self.entries if entry.name != owner]
        return tuple(name for name in others if owner in self._answer(name, layer, slot))

    def flip(self, layer: str, slot: int, bit: int) -> JointImage:
        """The image with one bit of one word changed, in memory.

        Raises:
            StoreError: the slot has no word, or the word has no such bit.
        """
        layout, words = self._layout(layer), self.words(layer)
        if not 0 <= slot < layout.allocated.size or not layout.allocated[slot] or not 0 <= bit < words.width:
            raise StoreError(f"{self.path}: slot {slot} of layer `{layer}` has no bit {bit} in the words")
        changed = {**self.file.words, layer: words.flipped(int(layout.word[slot]), bit)}
        return replace(self, file=ImageFile(changed, self.file.rests))

    def _layout(self, layer: str) -> LayerLayout:
        return self._read_layer(layer)[0]

    def _layouts(self) -> Iterator[tuple[str, LayerLayout]]:
        """Layouts of all layers, in the order of the record, one at a time: a layout is larger than the words."""
        names = owners_of_words(self.manifest)
        for layer, owners in self.masks.layers_of_all():
            yield layer.name, lay_out(layer, ((name, held) for name, held in owners if name in names))

    def _read_layer(self, name: str) -> tuple[LayerLayout, dict[str, OwnerLayer]]:
        """The layout of a layer and what each owner holds in it; the last one read is kept."""
        if name not in self._layer:
            names = owners_of_words(self.manifest)
            for layer, owners in self.masks.layers_of_all():
                held = dict(owners)
                if layer.name == name:
                    self._layer.clear()
                    self._layer[name] = lay_out(layer, ((owner, held[owner]) for owner in names)), held
                    break
        return self._layer[name]

    def _codes(self, owners: Collection[str] | None) -> dict[str, list[NDArray[np.uint8]]]:
        """Codes of owners, out of the words, in the order of their blobs."""
        found: dict[str, list[NDArray[np.uint8]]] = {name: [] for name in owners_of_words(self.manifest)}
        for layer, layout in self._layouts():
            words = self.words(layer)
            for codes in layout.fields:
                if owners is None or codes.owner in owners:
                    found[codes.owner].append(layout.read(words, codes))
        return found

    def _answer(self, task: str, layer: str, slot: int) -> set[str]:
        """Owners whose bits a task's weight at a slot is made of."""
        states = self._read_layer(layer)[1][task].states.reshape(-1)
        return set() if states[slot] == SlotState.PRUNED else self._view(task, layer, slot)

    def _view(self, owner: str, layer: str, slot: int) -> set[str]:
        """Owners whose bits the frozen view of `owner` at a slot is made of."""
        found: set[str] = set()
        for name in reversed(self.masks.chain(owner)):
            held = self._read_layer(layer)[1][name]
            state = held.states.reshape(-1)[slot]
            if held.own is not None and state in (SlotState.OWN, SlotState.REFINE):
                found.add(name)
                if state == SlotState.OWN:
                    break
        return found

    def _check(self) -> None:
        """Decodes all masks and checks that each layer's words are those that they ask for."""
        layers = [layer.name for layer in self.masks.architecture.layers]
        if list(self.file.words) != layers:
            raise StoreError(f"{self.path}: its layers {list(self.file.words)[:8]} are not those of its trunk. Pack the store again.")
        counts: dict[str, list[int]] = {name: [] for name in owners_of_words(self.manifest)}
        for layer, layout in self._layouts():
            words = self.words(layer)
            if (layout.count, layout.width) != (words.count, words.width):
                found, needed = f"{words.count} of {words.width} bits", f"{layout.count} of {layout.width}"
                raise StoreError(f"{self.path}: words of layer `{layer}` are {found}, its owners need {needed}. Pack the store again.")
            if layout.has_free_bit(words):
                raise StoreError(f"{self.path}: words of layer `{layer}` have a bit set that nobody owns. Pack the store again.")
            for codes in layout.fields:
                counts[codes.owner].append(len(codes.slots))
        for entry in parts_of(self.manifest):
            if not is_beside(entry) and tuple(counts[owner_name(entry)]) != self.file.rests[entry.path].counts:
                raise StoreError(f"{self.path}: part `{entry.path}` has other numbers of codes than the header says. Pack the store again.")


def is_packed_file(path: Path) -> bool:
    """Whether a path is a file that begins as a packed store does."""
    if not path.is_file():
        return False
    with path.open("rb") as handle:
        return is_image(handle.read(16))


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


def _bare_parts(path: Path, file: ImageFile, manifest: Manifest) -> dict[str, BarePart | None]:
    entries = parts_of(manifest)
    if list(file.rests) != [MANIFEST, *(entry.path for entry in entries)]:
        raise StoreError(f"{path}: `{MANIFEST}` names other files than the {len(file.rests)} of the header. Pack the store again.")
    bare: dict[str, BarePart | None] = {}
    claimed_bits = 0
    for entry in entries:
        rest = file.rests[entry.path]
        try:
            part = None if is_beside(entry) else read_bare_part(rest.data, rest.counts)
            if part is None and rest.counts:
                raise PartError("it stands whole, but the header gives it codes in the words")
        except _DAMAGE as error:
            raise _damaged(path, entry, error) from error
        bare[entry.path] = part
        claimed_bits += sum(run.count * max(run.bits, 1) for run in (part.runs if part else ()))
    if claimed_bits > sum(words.count * words.width for words in file.words.values()):
        raise StoreError(f"{path}: its parts `{TASKS}/...` claim more codes than its words can hold. Pack the store again.")
    return bare


def _zeros(file: ImageFile, manifest: Manifest, bare: Mapping[str, BarePart | None]) -> dict[str, list[NDArray[np.uint8]]]:
    entries = [entry for entry in parts_of(manifest) if bare[entry.path] is not None]
    return {owner_name(entry): [np.zeros(count, np.uint8) for count in file.rests[entry.path].counts] for entry in entries}


def _store(
    path: Path,
    file: ImageFile,
    manifest: Manifest,
    bare: Mapping[str, BarePart | None],
    codes: Mapping[str, Sequence[NDArray[np.uint8]]],
) -> Store:
    """A store in memory whose parts hold these codes."""
    return Store(path, manifest, file.rests[MANIFEST].data, read=lambda _, entry: _part(path, file, bare, codes, entry))


def _part(
    path: Path, file: ImageFile, bare: Mapping[str, BarePart | None], codes: Mapping[str, Sequence[NDArray[np.uint8]]], entry: Entry
) -> bytes:
    part = bare[entry.path]
    if part is None:
        return file.rests[entry.path].data
    try:
        return part.with_codes(codes[owner_name(entry)])
    except _DAMAGE as error:
        raise _damaged(path, entry, error) from error


def _damaged(path: Path, entry: Entry, error: BaseException) -> StoreError:
    return StoreError(f"{path}: part `{entry.path}` is damaged: {error or type(error).__name__}. Pack the store again.")


def _write_packed(file: Path, data: bytes) -> None:
    try:
        if file.exists() and not is_packed_file(file):
            raise StoreError(f"{file}: exists and is not a packed store. Choose another path.")
        write_bytes(file, data)
    except OSError as error:
        raise StoreError(f"{file}: {len(data)} bytes cannot be written ({error.strerror}). Choose another path or make room.") from error
