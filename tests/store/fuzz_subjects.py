"""What the fuzzer damages and reads: stores in a folder and packed files, and which names an error about damage in them must hold."""

import functools
import json
import math
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
from store_damage import Case, damage_image, damage_store
from store_fuzz import Subject
from two_readers import readers_agree

from tsn_toolkit.contracts import TaskWeights
from tsn_toolkit.errors import StoreError
from tsn_toolkit.store.folder import MANIFEST, TRUNK_PART
from tsn_toolkit.store.image_file import ImageFile, image_from_bytes
from tsn_toolkit.store.inspect import inspect_store
from tsn_toolkit.store.integrity import verify_store
from tsn_toolkit.store.joint_image import JointImage
from tsn_toolkit.store.layout import Architecture
from tsn_toolkit.store.part import PartError, canonical_json, read_part
from tsn_toolkit.store.revision import DTYPES
from tsn_toolkit.store.store import Store
from tsn_toolkit.vocabulary import TRUNK

HEADER = ("header", "preamble", "begin with TSNIMAGE", "version")

_NUMBER = re.compile(rb"-?\d+")


def store_subject(folder: Path) -> Subject:
    """A store as it lies in a folder."""
    paths = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    pristine = {path: (folder / path).read_bytes() for path in paths}
    below = parts_below(pristine[MANIFEST])

    def declared(files: dict[str, bytes]) -> int:
        return declared_size(files[path] for path in below)

    def names(files: dict[str, bytes], case: Case) -> tuple[str, ...]:
        if case.file == MANIFEST:
            return (*paths, "tasks/") if case.vouched else (MANIFEST,)
        return below[case.file] if case.vouched else (case.file,)

    return Subject(pristine, damage_store, read_store, declared, names)


def image_subject(file: Path) -> Subject:
    """A packed file; its folder is read."""
    name, pristine = file.name, file.read_bytes()
    image = JointImage.open(file).file
    below = parts_below(image.rests[MANIFEST].data)

    def damaged(files: dict[str, bytes], case: Case) -> dict[str, bytes]:
        return {name: damage_image(files[name], case)}

    def declared(files: dict[str, bytes]) -> int:
        try:
            rests = image_from_bytes(files[name]).rests
        except (ValueError, KeyError, TypeError, AttributeError):
            return 0
        return declared_size(rests[path].data for path in below if path in rests)

    def names(files: dict[str, bytes], case: Case) -> tuple[str, ...]:
        return _names_in_image(image, below, files[name]) if case.vouched else _damaged_section(image, pristine, files[name])

    return Subject({name: pristine}, damaged, lambda folder, thorough: read_image(folder / name, thorough), declared, names)


def parts_below(manifest: bytes) -> dict[str, tuple[str, ...]]:
    """Path of a part -> itself and the parts of all that inherits from it: a damaged one that is valid may leave them without a meaning."""
    body = json.loads(manifest)
    paths = {"trunk": body["trunk"]["path"]} | {entry["name"]: entry["path"] for entry in body["tasks"]}
    below = {path: [path] for path in paths.values()}
    parents = {entry["name"]: entry["parent"] for entry in body["tasks"]}
    for task in parents:
        above = parents[task]
        while above:
            below[paths[above]].append(paths[task])
            above = parents.get(above, "")
    return {path: tuple(found) for path, found in below.items()}


def _damaged_section(image: ImageFile, pristine: bytes, changed: bytes) -> tuple[str, ...]:
    """What an error must name where hashes are as they were: the section of the first byte that is another."""
    first = next((at for at, (old, new) in enumerate(zip(pristine, changed, strict=False)) if old != new), min(len(pristine), len(changed)))
    sizes = [(f"layer `{layer}`", len(words.to_bytes())) for layer, words in image.words.items()]
    sizes += [(path, len(rest.data)) for path, rest in image.rests.items()]
    end = len(pristine) - sum(size for _, size in sizes)
    if first < end:
        return HEADER
    for section, size in sizes:
        end += size
        if first < end:
            return (section,)
    return ("its sections",)


def _names_in_image(image: ImageFile, below: Mapping[str, tuple[str, ...]], changed: bytes) -> tuple[str, ...]:
    """What an error must name where all hashes of the file are right: words by their layer; of a part that is damaged, whatever follows from it."""
    layers = tuple(f"layer `{layer}`" for layer in image.words)
    anything = (*layers, *image.rests, *HEADER, "tasks/...", "its sections", "its layers")
    try:
        damaged = image_from_bytes(changed)
    except PartError:
        return anything
    if list(damaged.words) != list(image.words) or list(damaged.rests) != list(image.rests):
        return anything
    words = [layer for layer, old in image.words.items() if damaged.words[layer].to_bytes() != old.to_bytes()]
    parts = [path for path, old in image.rests.items() if damaged.rests[path] != old]
    if parts and parts != [MANIFEST] and not words:
        return (*below[parts[0]], *layers, "tasks/...", *(["of its trunk"] if parts == [TRUNK_PART] else []))
    return anything if parts or not words else tuple(f"layer `{layer}`" for layer in words)


def read_store(folder: Path, thorough: bool) -> None:
    """Reads the trunk and all tasks; StoreError where the store is refused, AssertionError where it gives what is no model."""
    store = Store.open(folder)
    trunk = store.trunk()
    assert set(trunk.layers) == ({layer.name for layer in store.architecture.layers} if trunk.kind == "checkpoint" else set())
    assert trunk.head is None or trunk.head.codes.shape == (len(trunk.head.scale), store.architecture.head_features)
    assert isinstance(store.recipe(TRUNK), dict)
    for entry in store.entries:
        _check_weights(store.weights(entry.name), store.architecture)
        readers_agree(store, entry.name)
        _check_memory(store, entry.name)
        assert isinstance(store.recipe(entry.name), dict) and isinstance(store.validation(entry.name), dict)
    if thorough:
        assert list(verify_store(store)) == [entry.name for entry in store.entries]
        inspect_store(store)


def _check_weights(weights: TaskWeights, architecture: Architecture) -> None:
    for layer in architecture.layers:
        q, scale = weights.q[layer.name], weights.scale[layer.name]
        assert q.shape == layer.shape and q.dtype == np.int8 and q.min(initial=0) >= -127
        assert scale.shape == layer.shape[:1] and np.isfinite(scale).all()
    for record in architecture.free_parameters:
        value = weights.free_parameters[record.name]
        assert value.shape == record.shape and value.dtype == np.float32 and np.isfinite(value).all()
    assert weights.head.codes.shape == (len(weights.classes), architecture.head_features)


def _check_memory(store: Store, task: str) -> None:
    revision = store.revision(task)
    if revision is not None:
        assert revision.rows and all(array.dtype.name in DTYPES for array in revision.memory.values())


def declared_size(parts: Iterable[bytes]) -> int:
    """Slots, and entries of vectors, that the metadata of all parts speak of, however wrong they may be."""
    return max(sum(map(_declared_in_part, parts)), 0)


@functools.lru_cache(maxsize=64)
def _declared_in_part(part: bytes) -> int:
    """Those of one part, remembered: all parts but the damaged one are the same in every case."""
    total = 0
    try:
        metadata = read_part(part)[0]
        record = metadata.get("architecture", {"layers": []})
        total += sum(int(math.prod(shape)) for _, shape in (*record["layers"], *record.get("free_parameters", [])))
        total += sum(int(size) * units for _, size, rows in record.get("groups", []) for _, _, units in rows if isinstance(units, int))
        vectors = [{**record, "layers": []}, metadata.get("norms"), metadata.get("biases")]
        total += sum(int(number) for number in _NUMBER.findall(canonical_json(vectors).encode()) if not number.startswith(b"-"))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        pass  # such a part declares nothing more and must be refused cheaply
    return total


def read_image(file: Path, thorough: bool) -> None:
    """Reads all tasks of a packed file; StoreError where it is refused, AssertionError where it gives what is no model."""
    image = JointImage.open(file)
    store = image.store()
    for entry in image.entries:
        _check_weights(store.weights(entry.name), store.architecture)
        _check_memory(store, entry.name)
    with suppress(StoreError):  # a changed code is another valid model, but not what the manifest vouches for
        image.files()
    if thorough:
        image.describe()
        assert all(image.decode(entry.name) for entry in image.entries)
