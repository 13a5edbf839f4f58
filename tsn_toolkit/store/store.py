"""A store: one folder that only grows. Committing a task writes one new file and replaces the manifest; no other byte changes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tsn_toolkit.contracts import FrozenLayer, HeadState, ModelGraph, NormState, TaskResult, TaskWeights, TrunkResult
from tsn_toolkit.errors import StoreError
from tsn_toolkit.store.checks import check_task, check_trunk, check_word, recipe_difference, valid_name
from tsn_toolkit.store.folder import (
    MANIFEST,
    TRUNK_PART,
    claim_folder,
    prepare_folder,
    read_bytes,
    remove_orphans,
    task_path,
    write_atomic,
    writer_lock,
)
from tsn_toolkit.store.layout import Architecture
from tsn_toolkit.store.lineage import Owner
from tsn_toolkit.store.manifest import Manifest, PartEntry, TaskEntry, hash_bytes, read_manifest
from tsn_toolkit.store.part import canonical_json
from tsn_toolkit.store.record import architecture_from_graph
from tsn_toolkit.store.task_part import decode_task, encode_task
from tsn_toolkit.store.trunk_part import decode_trunk, encode_trunk, trunk_result
from tsn_toolkit.vocabulary import TRUNK, SlotState

# What decoding damaged bytes can raise; anything else is a fault of ours and keeps its traceback.
_DAMAGE = (ValueError, KeyError, TypeError, IndexError, OverflowError, MemoryError)


class Store:
    """An opened store.

    Attributes:
        path: the folder.
    """

    def __init__(self, path: Path, manifest: Manifest, manifest_bytes: bytes) -> None:
        """Use `Store.create` or `Store.open`."""
        self.path = path
        self._manifest = manifest
        self._manifest_bytes = manifest_bytes
        self._architecture, trunk = self._decode_trunk()
        self._owners: dict[str, Owner] = {TRUNK: trunk}

    @classmethod
    def create(cls, path: Path | str, *, trunk: TrunkResult, graph: ModelGraph, recipe: Mapping[str, Any]) -> Store:
        """Makes a new store with its trunk.

        Args:
            path: a folder that does not exist yet or is empty.
            trunk: a trained checkpoint as codes, or a seed.
            graph: of the pristine model; the store keeps what it needs of it.
            recipe: the resolved recipe, a JSON value.

        Raises:
            StoreError: the folder is taken, or the trunk or the recipe cannot be stored.
        """
        path = Path(path)
        architecture = architecture_from_graph(graph, trunk)
        check_trunk(architecture, trunk)
        data = encode_trunk(architecture, trunk, _json_recipe(TRUNK, recipe))
        prepare_folder(path)
        with writer_lock(path):
            claim_folder(path)
            manifest = Manifest(PartEntry(TRUNK_PART, hash_bytes(data), len(data)), ())
            write_atomic(path / TRUNK_PART, data)
            write_atomic(path / MANIFEST, manifest.to_bytes())
        return cls(path, manifest, manifest.to_bytes())

    @classmethod
    def open(cls, path: Path | str) -> Store:
        """Opens a store and checks the hash of every part.

        Raises:
            StoreError: it is no store, or a part is missing or damaged; the message names the part.
        """
        path = Path(path)
        manifest, data = read_manifest(path)
        _read_checked(path, manifest.trunk)
        for entry in manifest.entries:
            _read_checked(path, entry)
        return cls(path, manifest, data)

    @property
    def entries(self) -> tuple[TaskEntry, ...]:
        """The tasks in order of their commits."""
        return self._manifest.entries

    @property
    def trunk_entry(self) -> PartEntry:
        """The trunk's file."""
        return self._manifest.trunk

    @property
    def next_index(self) -> int:
        """Number that the next commit gets."""
        return len(self._manifest.entries)

    @property
    def architecture(self) -> Architecture:
        """What the store knows of the model."""
        return self._architecture

    @property
    def fingerprint(self) -> str:
        """Of the model the store was made for."""
        return self._architecture.fingerprint

    def entry(self, task: str) -> TaskEntry:
        """The entry of a task.

        Raises:
            StoreError: there is no such task.
        """
        for entry in self.entries:
            if entry.name == task:
                return entry
        raise StoreError(f"{self.path}: no task `{task}`; the store holds {[entry.name for entry in self.entries]}")

    def chain(self, owner: str) -> tuple[str, ...]:
        """Names from the trunk to `owner`, both included."""
        names = [owner]
        while names[-1] != TRUNK:
            names.append(self.entry(names[-1]).parent)
        return tuple(reversed(names))

    def decoded(self, owner: str) -> Owner:
        """An owner with its whole chain, as decoded; its arrays are shared and must not be written. Reads the chain's files only.

        Raises:
            StoreError: there is no such owner, or a part of its chain is damaged; the message names the part.
        """
        for name in self.chain(owner):
            if name not in self._owners:
                entry = self.entry(name)
                data = _read_checked(self.path, entry)
                self._owners[name] = self._decode_task(self._owners[entry.parent], data, entry)
        return self._owners[owner]

    def trunk(self) -> TrunkResult:
        """The trunk as it was committed."""
        return trunk_result(self._owners[TRUNK], self._architecture.word_bits)

    def frozen_view(self, owner: str) -> dict[str, FrozenLayer]:
        """What a child of `owner` (the trunk or a task) inherits, by layer; arrays are the caller's own."""
        return {
            name: FrozenLayer(layer.view.copy(), layer.present.copy(), None if layer.scale is None else layer.scale.copy())
            for name, layer in self.decoded(owner).layers.items()
        }

    def states(self, owner: str) -> dict[str, NDArray[np.uint8]]:
        """`SlotState` of every slot, by layer; those of a `shared` layer are REUSE where the task uses the parent's value."""
        return {name: layer.states.copy() for name, layer in self.decoded(owner).layers.items()}

    def weights(self, task: str) -> TaskWeights:
        """A task decoded; arrays are the caller's own."""
        owner = self._task(task)
        assert owner.parent is not None and owner.head is not None
        scales = {name: layer.scale for name, layer in owner.layers.items()}
        return TaskWeights(
            name=owner.name,
            parent=owner.parent.name,
            classes=owner.classes,
            unit_masks={name: mask.copy() for name, mask in owner.unit_masks.items()},
            q={name: layer.q for name, layer in owner.layers.items()},
            scale={name: scale.copy() for name, scale in scales.items() if scale is not None},
            norms={name: NormState(norm.gain.copy(), norm.shift.copy()) for name, norm in owner.norms.items()},
            biases={name: bias.copy() for name, bias in owner.biases.items()},
            head=HeadState(owner.head.codes.copy(), owner.head.scale.copy(), owner.head.bias.copy()),
            ranges=dict(owner.ranges),
        )

    def part_bytes(self, entry: PartEntry | TaskEntry) -> bytes:
        """The bytes of a part's file, hash checked.

        Raises:
            StoreError: the part is missing or damaged.
        """
        return _read_checked(self.path, entry)

    def validation(self, task: str) -> dict[str, float]:
        """Numbers measured on validation data when the task was learned."""
        return {name: float(value) for name, value in self._task(task).metadata["validation"].items()}

    def recipe(self, owner: str) -> dict[str, Any]:
        """The resolved recipe that the trunk or a task was committed with.

        Raises:
            StoreError: there is no such owner, or its part is damaged.
        """
        base = self._owners[TRUNK].metadata["recipe"]
        difference = {} if owner == TRUNK else self._task(owner).metadata["recipe"]
        kept = {key: value for key, value in base.items() if key not in difference.get("removed", ())}
        return dict(json.loads(canonical_json({**kept, **difference.get("set", {})})))

    def codes_hash(self, task: str) -> str:
        """SHA-256 over all integers of a decoded task: unit masks, q of every layer, head codes. Earlier tasks keep theirs for ever."""
        weights = self.weights(task)
        digest = hashlib.sha256()
        arrays = [*sorted(weights.unit_masks.items()), *((name, weights.q[name]) for name in sorted(weights.q)), ("", weights.head.codes)]
        for name, array in arrays:
            digest.update(canonical_json([name, list(array.shape)]).encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def commit(self, result: TaskResult, recipe: Mapping[str, Any]) -> TaskEntry:
        """Adds one task: its part, then the manifest. Nothing is written unless everything is in order.

        Raises:
            StoreError: the result or the recipe cannot be stored, another process writes, or the store changed since it was opened.
        """
        with writer_lock(self.path):
            if read_manifest(self.path)[1] != self._manifest_bytes:
                raise StoreError(f"{self.path}: another process added to this store since it was opened. Open it again.")
            data, owner = self._encode(result, recipe)
            index = self.next_index
            entry = TaskEntry(
                result.name, result.parent, result.isolation, result.strategy, task_path(index, result.name), hash_bytes(data), len(data), index
            )
            manifest = replace(self._manifest, entries=(*self.entries, entry))
            remove_orphans(self.path, index)
            write_atomic(self.path / entry.path, data)
            write_atomic(self.path / MANIFEST, manifest.to_bytes())
        self._manifest, self._manifest_bytes = manifest, manifest.to_bytes()
        self._owners[entry.name] = owner
        return entry

    def _encode(self, result: TaskResult, recipe: Mapping[str, Any]) -> tuple[bytes, Owner]:
        if not valid_name(result.name):
            raise StoreError(f"a task's name must match [a-z0-9_-]+ (at most 100) and not be `{TRUNK}`, got `{result.name}`")
        if result.name in {entry.name for entry in self.entries}:
            raise StoreError(f"{self.path}: task `{result.name}` is committed already, and a part never changes. Choose another name.")
        parent = self.decoded(result.parent)
        check_task(self._architecture, parent, result)
        if result.isolation == "exact":
            self._check_words(result)
        difference = recipe_difference(self._owners[TRUNK].metadata["recipe"], _json_recipe(result.name, recipe))
        data = encode_task(self._architecture, parent, result, difference)
        owner = decode_task(self._architecture, parent, data)
        _check_readback(result, owner)
        return data, owner

    def _check_words(self, result: TaskResult) -> None:
        """One owner per bit, over the trunk and ALL tasks of the store, related or not. Revisions of isolation `none` stand beside the words."""
        exact = [TRUNK, *(entry.name for entry in self.entries if entry.isolation == "exact")]
        for name, codes in result.layers.items():
            allocated = np.zeros(codes.states.shape, np.uint16)
            for owner in exact:
                own = self.decoded(owner).layers[name].codes
                if own is not None:
                    allocated += np.uint16(own.bit_width) * (own.states == SlotState.OWN)
            check_word(result.name, name, codes.states == SlotState.OWN, codes.bit_width, allocated, self._architecture.word_bits)

    def _task(self, task: str) -> Owner:
        self.entry(task)
        return self.decoded(task)

    def _decode_trunk(self) -> tuple[Architecture, Owner]:
        data = _read_checked(self.path, self._manifest.trunk)
        try:
            return decode_trunk(data)
        except _DAMAGE as error:
            raise _damaged(self.path, TRUNK_PART, error) from error

    def _decode_task(self, parent: Owner, data: bytes, entry: TaskEntry) -> Owner:
        try:
            owner = decode_task(self._architecture, parent, data)
            if any(owner.metadata[key] != getattr(entry, key) for key in ("name", "isolation", "strategy")):
                raise ValueError("its metadata do not match the manifest")
        except _DAMAGE as error:
            raise _damaged(self.path, entry.path, error) from error
        return owner


def _json_recipe(owner: str, recipe: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return dict(json.loads(canonical_json(dict(recipe))))
    except (TypeError, ValueError) as error:
        raise StoreError(f"the recipe of `{owner}` is not a JSON value: {error}") from error


def _read_checked(path: Path, entry: PartEntry | TaskEntry) -> bytes:
    data = read_bytes(path, entry.path)
    if len(data) != entry.size_bytes:
        raise _damaged(path, entry.path, ValueError(f"it has {len(data)} bytes, the manifest says {entry.size_bytes}"))
    if hash_bytes(data) != entry.sha256:
        raise _damaged(path, entry.path, ValueError(f"its SHA-256 is {hash_bytes(data)}, the manifest says {entry.sha256}"))
    return data


def _damaged(path: Path, part: str, error: BaseException) -> StoreError:
    return StoreError(f"{path}: part `{part}` is damaged: {error or type(error).__name__}. Restore it from a copy of the store.")


def _check_readback(result: TaskResult, owner: Owner) -> None:
    """What is about to be written decodes to what was handed in: our own guarantee, checked on every commit."""
    for name, codes in result.layers.items():
        stored = owner.layers[name].codes
        assert stored is not None
        assert np.array_equal(stored.states, codes.states) and np.array_equal(stored.codes, codes.codes), f"layer {name} does not read back"
    assert owner.head is not None and np.array_equal(owner.head.codes, result.head.codes), "the head does not read back"
