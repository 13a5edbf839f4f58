"""The joint image: an opened packed store, in which the codes of all owners lie together in one array of words per layer.

The rest of each part (masks, codebooks, scales, ...) stands behind the words as it is (`store/packed_parts.py`). The byte layout is in
docs/joint-image.md.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tsn_toolkit.contracts import TaskWeights
from tsn_toolkit.errors import StoreError
from tsn_toolkit.store.image_file import ImageFile, image_from_bytes, image_to_bytes
from tsn_toolkit.store.joint_layout import LayerLayout, lay_out
from tsn_toolkit.store.layer_owners import LayerOwners
from tsn_toolkit.store.manifest import TaskEntry
from tsn_toolkit.store.packed_parts import PackedParts, owners_of_words
from tsn_toolkit.store.part import PartError
from tsn_toolkit.store.store import Store
from tsn_toolkit.store.words import Words


@dataclass(frozen=True)
class JointImage:
    """An opened packed file.

    Attributes:
        path: the file.
        file: its sections.
        parts: what stands behind the words.
        masks: the store inside with every code 0: its masks, owners and lineages are right, its weights are not.
    """

    path: Path
    file: ImageFile
    parts: PackedParts
    masks: Store
    _layer: dict[str, LayerOwners] = field(default_factory=dict, repr=False, compare=False)

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
        except PartError as error:
            raise StoreError(f"{path}: not an intact packed store: {error}. Pack the store again.") from error
        parts = PackedParts.read(path, file)
        image = cls(path, file, parts, parts.store_without_codes())
        image._check()
        return image

    @property
    def entries(self) -> tuple[TaskEntry, ...]:
        """The tasks in order of their commits."""
        return self.parts.manifest.entries

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
        return self.parts.store(self._codes(owners))

    def files(self) -> dict[str, bytes]:
        """Every file of the store, byte for byte, by its path in the folder.

        Raises:
            StoreError: a part does not have the hash that the manifest says.
        """
        return self.parts.files(self._codes(None))

    def describe(self) -> dict[str, Any]:
        """Sizes, as `tsn inspect FILE --json` prints them.

        Returns:
            `layers`: name, words, word_bits, bytes, own_bits of each owner; `parts`: path and bytes of what stands behind the words; `tasks`: name,
            parent; `total_bytes` of the file.
        """
        layers = []
        for name, layout in self._layouts():
            words = self.words(name)
            own_bits = dict.fromkeys(owners_of_words(self.parts.manifest), 0)
            for codes in layout.fields:
                own_bits[codes.owner] += len(codes.slots) * codes.bits
            layers.append({"name": name, "words": words.count, "word_bits": words.width, "bytes": len(words.to_bytes()), "own_bits": own_bits})
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
        return self._owners(layer).owner_of(slot, bit)

    def readers_of(self, layer: str, slot: int, bit: int) -> tuple[str, ...]:
        """The tasks other than its owner whose weight at the slot this bit takes part in, in order of their commits."""
        owners = self._owners(layer)
        owner = owners.owner_of(slot, bit)
        others = [entry.name for entry in self.entries if entry.name != owner]
        return tuple(name for name in others if owner in owners.sources_of(self.masks.chain(name), slot))

    def flip(self, layer: str, slot: int, bit: int) -> JointImage:
        """The image with one bit of one word changed, in memory.

        Raises:
            StoreError: the slot has no word, or the word has no such bit.
        """
        layout, words = self._owners(layer).layout, self.words(layer)
        if not 0 <= slot < layout.allocated.size or not layout.allocated[slot] or not 0 <= bit < words.width:
            raise StoreError(f"{self.path}: slot {slot} of layer `{layer}` has no bit {bit} in the words")
        changed = {**self.file.words, layer: words.flipped(int(layout.word[slot]), bit)}
        return replace(self, file=ImageFile(changed, self.file.rests))

    def _layouts(self) -> Iterator[tuple[str, LayerLayout]]:
        """Layouts of all layers, in the order of the record, one at a time: a layout is larger than the words."""
        names = owners_of_words(self.parts.manifest)
        for layer, owners in self.masks.layers_of_all():
            yield layer.name, lay_out(layer, ((name, held) for name, held in owners if name in names))

    def _owners(self, name: str) -> LayerOwners:
        """The layout of a layer and what each owner holds in it; the last one read is kept."""
        if name not in self._layer:
            names = owners_of_words(self.parts.manifest)
            for layer, owners in self.masks.layers_of_all():
                held = dict(owners)
                if layer.name == name:
                    self._layer.clear()
                    self._layer[name] = LayerOwners(lay_out(layer, ((owner, held[owner]) for owner in names)), held)
                    break
        return self._layer[name]

    def _codes(self, owners: Collection[str] | None) -> dict[str, list[NDArray[np.uint8]]]:
        """Codes of owners, out of the words, in the order of their blobs."""
        found: dict[str, list[NDArray[np.uint8]]] = {name: [] for name in owners_of_words(self.parts.manifest)}
        for layer, layout in self._layouts():
            words = self.words(layer)
            for codes in layout.fields:
                if owners is None or codes.owner in owners:
                    found[codes.owner].append(layout.read(words, codes))
        return found

    def _check(self) -> None:
        """Decodes all masks and checks that each layer's words are those that they ask for."""
        layers = [layer.name for layer in self.masks.architecture.layers]
        if list(self.file.words) != layers:
            raise StoreError(f"{self.path}: its layers {list(self.file.words)[:8]} are not those of its trunk. Pack the store again.")
        counts: dict[str, list[int]] = {name: [] for name in owners_of_words(self.parts.manifest)}
        for layer, layout in self._layouts():
            words = self.words(layer)
            if (layout.count, layout.width) != (words.count, words.width):
                found, needed = f"{words.count} of {words.width} bits", f"{layout.count} of {layout.width}"
                raise StoreError(f"{self.path}: words of layer `{layer}` are {found}, its owners need {needed}. Pack the store again.")
            if layout.has_free_bit(words):
                raise StoreError(f"{self.path}: words of layer `{layer}` have a bit set that nobody owns. Pack the store again.")
            for codes in layout.fields:
                counts[codes.owner].append(len(codes.slots))
        self.parts.check_counts(counts)
