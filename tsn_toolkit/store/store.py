"""A store: one folder that only grows. Committing a task writes one new file and replaces the manifest; no other byte changes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tsn_toolkit.contracts import FrozenLayer, FrozenParameter, LayerCodes, ModelGraph, Revision, TaskResult, TaskWeights, TrunkResult
from tsn_toolkit.errors import StoreError
from tsn_toolkit.store.checks import check_trunk, valid_name
from tsn_toolkit.store.compiled_chain import GivenUpError, LayerAnswer, answers
from tsn_toolkit.store.folder import MANIFEST, TRUNK_PART, claim_folder, prepare_folder, remove_orphans, task_path, write_atomic, writer_lock
from tsn_toolkit.store.free_parameters import answered_with, nothing_inherited, overlaid
from tsn_toolkit.store.layout import Architecture, CodedLayer
from tsn_toolkit.store.lineage import Inherited, OwnerLayer
from tsn_toolkit.store.manifest import Manifest, PartEntry, TaskEntry, hash_bytes, read_manifest
from tsn_toolkit.store.owner_part import OwnerPart
from tsn_toolkit.store.part import canonical_json
from tsn_toolkit.store.part_files import Entry, PartFiles
from tsn_toolkit.store.prepare import Allocated, Handed, cannot_run_out, count_allocated, encode_checked, prepare
from tsn_toolkit.store.recipes import apply_difference, recipe_difference
from tsn_toolkit.store.record import architecture_from_graph
from tsn_toolkit.store.trunk_part import encode_trunk
from tsn_toolkit.store.walk import walk_all, walk_chain
from tsn_toolkit.vocabulary import TRUNK


class Store:
    """An opened store.

    Attributes:
        path: the folder.
    """

    def __init__(self, path: Path, manifest: Manifest, manifest_bytes: bytes, *, read: Callable[[Path, Entry], bytes] | None = None) -> None:
        """Use `Store.create` or `Store.open`; `read` stands in for the folder where the parts lie in a packed file."""
        self.path = path
        self._files = PartFiles(path, manifest, read)
        self._manifest_bytes = manifest_bytes
        self._architecture = self._files.open(TRUNK).architecture
        # Kept for the next commit, and of one owner only: what its children inherit, and the bits of all words that are taken.
        self._tip: tuple[str, Mapping[str, Inherited]] | None = None
        self._allocated: Allocated | None = None

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
    def open(cls, path: Path | str, *, check: bool = True) -> Store:
        """Opens a store.

        Args:
            path: its folder.
            check: check the hash of every part now; otherwise of the trunk now, and of a task's part when it is first read, so that loading one task
                reads the files of its chain only.

        Raises:
            StoreError: it is no store, or a part is missing or damaged; the message names the part.
        """
        path = Path(path)
        manifest, data = read_manifest(path)
        store = cls(path, manifest, data)
        if check:
            for entry in manifest.entries:
                store._files.check(entry)
        return store

    @property
    def entries(self) -> tuple[TaskEntry, ...]:
        """The tasks in order of their commits."""
        return self._files.manifest.entries

    @property
    def trunk_entry(self) -> PartEntry:
        """The trunk's file."""
        return self._files.manifest.trunk

    @property
    def next_index(self) -> int:
        """Number that the next commit gets: one more than that of the newest task."""
        return self.entries[-1].index + 1 if self.entries else 0

    @property
    def architecture(self) -> Architecture:
        """What the store knows of the model."""
        return self._architecture

    @property
    def words_may_run_out(self) -> bool:
        """Whether a next task could ask for more bits of a word than are left."""
        return not cannot_run_out(self._files, self._architecture.word_bits)

    @property
    def fingerprint(self) -> str:
        """Of the model the store was made for."""
        return self._architecture.fingerprint

    def entry(self, task: str) -> TaskEntry:
        """The entry of a task.

        Raises:
            StoreError: there is no such task.
        """
        return self._files.task(task)

    def chain(self, owner: str) -> tuple[str, ...]:
        """Names from the trunk to `owner`, both included."""
        return self._files.chain(owner)

    def part(self, owner: str) -> OwnerPart:
        """The opened part of the trunk or a task: its metadata, unit masks, norms, biases, head and ranges.

        Raises:
            StoreError: there is no such owner, or its part or one of its chain is damaged; the message names the part.
        """
        return self._files.open(owner)

    def part_bytes(self, entry: Entry) -> bytes:
        """The bytes of a part's file, hash checked.

        Raises:
            StoreError: the part is missing or damaged.
        """
        return self._files.bytes_of(entry)

    def layers(self, owner: str) -> Iterator[tuple[CodedLayer, OwnerLayer]]:
        """Every layer of the trunk or a task, decoded one at a time; reads its chain's files only. Arrays are shared and must not be written.

        Raises:
            StoreError: there is no such owner, or a part of its chain is damaged; the message names the part.
        """
        return walk_chain(self._files, owner)

    def held(self, owner: str) -> dict[str, OwnerLayer]:
        """All layers of the trunk or a task at once; see `layers`."""
        return {layer.name: held for layer, held in self.layers(owner)}

    def layers_of_all(self) -> Iterator[tuple[CodedLayer, Iterator[tuple[str, OwnerLayer]]]]:
        """Every layer with all owners in order of their commits, decoded one at a time; see `walk_all`.

        Raises:
            StoreError: a part is damaged; the message names the part.
        """
        return walk_all(self._files)

    def trunk(self) -> TrunkResult:
        """The trunk as it was committed."""
        part = self.part(TRUNK)
        layers = {layer.name: held.own for layer, held in self.layers(TRUNK) if isinstance(held.own, LayerCodes)}
        with self._files.naming(TRUNK):
            head = part.head() if part.classes else None
            return TrunkResult(
                kind=part.metadata["kind"],
                seed=part.metadata["seed"],
                layers=layers,
                norms=part.norms(),
                biases=part.biases(),
                head=head,
                word_bits=self._architecture.word_bits,
                free_parameters=part.free_parameters(),
            )

    def frozen_view(self, owner: str) -> dict[str, FrozenLayer]:
        """What a child of `owner` (the trunk or a task) inherits, by layer; arrays are the caller's own."""
        return {
            name: FrozenLayer(view.q.copy(), view.present.copy(), None if view.scale is None else view.scale.copy())
            for name, view in self._inherited(owner).items()
        }

    def frozen_parameters(self, owner: str) -> dict[str, FrozenParameter]:
        """What a child of `owner` (the trunk or a task) inherits of free parameters, by name; arrays are the caller's own.

        Raises:
            StoreError: there is no such owner, or a part of its chain is damaged; the message names the part.
        """
        view = nothing_inherited(self._architecture)
        for name in self.chain(owner) if view else ():
            part = self.part(name)
            with self._files.naming(name):
                view = overlaid(view, self._architecture, part.unit_masks, part.free_parameters())
        return view

    def states(self, owner: str) -> dict[str, NDArray[np.uint8]]:
        """`SlotState` of every slot, by layer; those of a `shared` layer are REUSE where the task uses the parent's value."""
        return {layer.name: held.states.copy() for layer, held in self.layers(owner)}

    def weights(self, task: str) -> TaskWeights:
        """A task decoded; arrays are the caller's own."""
        entry, part = self.entry(task), self.part(task)
        q, scale = {}, {}

        def keep(layer: CodedLayer, answer: OwnerLayer | LayerAnswer) -> None:
            q[layer.name] = answer.q.copy()
            if answer.scale is not None:
                scale[layer.name] = answer.scale.copy()

        self._give_answers(task, keep)
        free = self.frozen_parameters(task)
        with self._files.naming(task):
            return TaskWeights(
                name=entry.name,
                parent=entry.parent,
                classes=part.classes,
                unit_masks={name: mask.copy() for name, mask in part.unit_masks.items()},
                q=q,
                scale=scale,
                norms=part.norms(),
                biases=part.biases(),
                head=part.head(),
                ranges=part.ranges(),
                free_parameters=answered_with(free, self._architecture, part.unit_masks),
            )

    def dense_weights(self, task: str) -> dict[str, NDArray[np.float32]]:
        """A task's weights as they stand in its model, by layer: scale[output] * q, float32, shape of the weight. The head is not among them."""
        self.entry(task)
        # One piece of memory for all: a system hands out one large piece many times faster than as much in small ones.
        memory, dense, start = np.empty(self._architecture.size, np.float32), {}, 0
        for layer in self._architecture.layers:
            dense[layer.name] = memory[start : start + layer.size].reshape(layer.shape)
            start += layer.size
        self._give_answers(task, lambda layer, answer: answer.weights_(dense[layer.name]))
        return dense

    def check_decoders(self, task: str) -> None:
        """Reads a task's layers with arrays, and again with compiled code where there is any, and compares.

        Raises:
            StoreError: they differ, or a part of its chain is damaged; the message names the part.
        """
        layers = self.layers(task)
        try:
            for answer in answers(self._files, task):
                layer, held = next(layers)
                if not (np.array_equal(answer.q, held.q) and held.scale is not None and np.array_equal(answer.scale, held.scale)):
                    raise StoreError(
                        f"{self.path}: task `{task}`: compiled code reads layer `{layer.name}` otherwise than numpy. This is a fault of the package, "
                        "please report it; `TSN_TOOLKIT_PURE=1` in the environment reads without compiled code."
                    )
        except (GivenUpError, MemoryError):
            pass
        for _ in layers:
            pass

    def revision(self, task: str) -> Revision | None:
        """For which tasks a task's part answers, and what its method kept; None where it answers for itself alone."""
        self.entry(task)
        part = self.part(task)
        with self._files.naming(task):
            return part.revision()

    def validation(self, task: str) -> dict[str, float]:
        """Numbers measured on validation data when the task was learned."""
        self.entry(task)
        return {name: float(value) for name, value in self.part(task).metadata["validation"].items()}

    def recipe(self, owner: str) -> dict[str, Any]:
        """The resolved recipe that the trunk or a task was committed with.

        Raises:
            StoreError: there is no such owner, or its part is damaged.
        """
        trunk, *tasks = (self.part(name).metadata["recipe"] for name in self.chain(owner))
        return dict(json.loads(canonical_json(reduce(apply_difference, tasks, trunk))))

    def codes_hash(self, task: str) -> str:
        """SHA-256 over all integers of a decoded task: unit masks, q of every layer, head codes. Earlier tasks keep theirs for ever."""
        weights = self.weights(task)
        digest = hashlib.sha256()
        arrays = [*sorted(weights.unit_masks.items()), *((name, weights.q[name]) for name in sorted(weights.q)), ("", weights.head.codes)]
        for name, array in arrays:
            digest.update(canonical_json([name, list(array.shape)]).encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def encode(self, result: TaskResult, recipe: Mapping[str, Any]) -> bytes:
        """The bytes that the part of a result has; nothing is written, and neither its name nor its words are checked.

        Raises:
            StoreError: the result or the recipe cannot be stored.
        """
        difference = recipe_difference(self.recipe(result.parent), _json_recipe(result.name, recipe))
        return encode_checked(self._handed(result.parent), result, difference)

    def commit(self, result: TaskResult, recipe: Mapping[str, Any]) -> TaskEntry:
        """Adds one task: its part, then the manifest. Nothing is written unless everything is in order.

        Raises:
            StoreError: the result or the recipe cannot be stored, another process writes, or the store changed since it was opened.
        """
        with writer_lock(self.path):
            if read_manifest(self.path)[1] != self._manifest_bytes:
                raise StoreError(f"{self.path}: another process changed this store since it was opened. Open it again.")
            self._check_name(result.name)
            handed = self._handed(result.parent)
            difference = recipe_difference(self.recipe(result.parent), _json_recipe(result.name, recipe))
            prepared = prepare(handed, result, difference, self._words() if result.isolation == "exact" else None)
            index = self.next_index
            path, sha256, size_bytes = task_path(index, result.name), hash_bytes(prepared.data), len(prepared.data)
            entry = TaskEntry(result.name, result.parent, result.isolation, result.strategy, path, sha256, size_bytes, index)
            files = self._files.with_task(entry)
            remove_orphans(self.path, {other.path for other in self.entries})
            write_atomic(self.path / entry.path, prepared.data)
            write_atomic(self.path / MANIFEST, files.manifest.to_bytes())
        self._files, self._manifest_bytes = files, files.manifest.to_bytes()
        self._tip = (entry.name, prepared.below)
        for name, bits in prepared.asked.items():
            assert self._allocated is not None
            self._allocated[name] += bits
        return entry

    def _give_answers(self, task: str, take: Callable[[CodedLayer, OwnerLayer | LayerAnswer], None]) -> None:
        """Hands over what a task answers with, a layer at a time; from the first one again where compiled code cannot read one."""
        if self._give_compiled(task, take):
            return
        for layer, held in self.layers(task):
            take(layer, held)
            del held  # or it would stay until the next one is decoded

    def _give_compiled(self, task: str, take: Callable[[CodedLayer, OwnerLayer | LayerAnswer], None]) -> bool:
        """The same by compiled code; False, with its memory free again, where that cannot read a layer."""
        try:
            for answer in answers(self._files, task):
                take(answer.layer, answer)
        except (GivenUpError, MemoryError):
            return False
        return True

    def _check_name(self, name: str) -> None:
        if not valid_name(name):
            raise StoreError(f"a task's name must match [a-z0-9_-]+ (at most 100) and not be `{TRUNK}`, got `{name}`")
        if name in self._files.owners:
            raise StoreError(f"{self.path}: task `{name}` is committed already, and a part never changes. Choose another name.")

    def _handed(self, owner: str) -> Handed:
        """All that children of `owner` inherit."""
        return Handed(self.part(owner), self._inherited(owner), self.frozen_parameters(owner))

    def _inherited(self, owner: str) -> Mapping[str, Inherited]:
        """What children of `owner` inherit, by layer; its arrays are shared and must not be written."""
        if self._tip is None or self._tip[0] != owner:
            self._tip = (owner, {layer.name: held.below for layer, held in self.layers(owner)})
        return self._tip[1]

    def _words(self) -> Allocated | None:
        """Bits of all words that are taken; None while no word can run out."""
        if self._allocated is None and self.words_may_run_out:
            self._allocated = count_allocated(self._files)
        return self._allocated


def _json_recipe(owner: str, recipe: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return dict(json.loads(canonical_json(dict(recipe))))
    except (TypeError, ValueError) as error:
        raise StoreError(f"the recipe of `{owner}` is not a JSON value: {error}") from error
