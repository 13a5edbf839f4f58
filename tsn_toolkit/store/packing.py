"""A store as one packed file, and back: pure functions of the store's bytes, so that the same store gives the same file and comes back as it was."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from pathlib import Path

from tsn_toolkit.errors import StoreError
from tsn_toolkit.files import write_bytes
from tsn_toolkit.store.answering import newest_part
from tsn_toolkit.store.folder import MANIFEST, TASKS, write_atomic
from tsn_toolkit.store.image_file import ImageFile, Rest, image_to_bytes, is_image
from tsn_toolkit.store.joint_image import JointImage
from tsn_toolkit.store.joint_layout import lay_out
from tsn_toolkit.store.manifest import Manifest
from tsn_toolkit.store.packed_parts import is_beside, owner_name, owners_of_words, parts_of
from tsn_toolkit.store.part_values import cut_codes
from tsn_toolkit.store.store import Store


def pack_store(store: Store, file: Path | str, tasks: Collection[str] | None = None) -> JointImage:
    """Writes a store as one file, the same bytes for the same store.

    Args:
        store: the store.
        file: the packed file; an older packed file is replaced.
        tasks: names of the tasks that a device needs; they come with their chains and those of the revisions that answer for
            them, and nothing else. None: the whole store.

    Raises:
        StoreError: there is no such task, another file stands there or the file would lie in the store, a part is damaged or was not written by this
            version, or the disk is full.
    """
    file = Path(file)
    if store.path.resolve() in file.resolve().parents:
        raise StoreError(f"{file}: lies in the store, which holds its own parts alone. Choose a path outside {store.path}.")
    wanted = None if tasks is None else {name for task in tasks for part in (task, newest_part(store, task)) for name in store.chain(part)}
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


def is_packed_file(path: Path) -> bool:
    """Whether a path is a file that begins as a packed store does."""
    if not path.is_file():
        return False
    with path.open("rb") as handle:
        return is_image(handle.read(16))


def _write_packed(file: Path, data: bytes) -> None:
    try:
        if file.exists() and not is_packed_file(file):
            raise StoreError(f"{file}: exists and is not a packed store. Choose another path.")
        write_bytes(file, data)
    except OSError as error:
        raise StoreError(f"{file}: {len(data)} bytes cannot be written ({error.strerror}). Choose another path or make room.") from error
