"""Where a store's bytes are, and whose weights each task uses."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tsn_toolkit.store.entropy_size import entropy_bytes
from tsn_toolkit.store.folder import MANIFEST, read_bytes
from tsn_toolkit.store.lineage import Owner
from tsn_toolkit.store.part import blob_sizes_bytes
from tsn_toolkit.store.store import Store
from tsn_toolkit.vocabulary import TRUNK, SlotState

KINDS = ("values", "masks", "codebooks", "scales", "norms", "biases", "heads", "metadata")

_KIND_OF_BLOB = {
    "masks": "masks",
    "values": "values",
    "codebooks": "codebooks",
    "scales": "scales",
    "ranges": "scales",
    "norms": "norms",
    "biases": "biases",
    "head": "heads",
}


def inspect_store(store: Store) -> dict[str, Any]:
    """Sizes of a store, as `tsn inspect --json` prints them.

    Returns:
        `parts`: path, bytes and breakdown of every regular file (activation ranges count as scales, headers and the manifest as metadata; a file that
        belongs to no committed task also has `orphan`: true); `total_bytes`; `tasks`: name, parent, marginal_bytes (of its part), density (used slots
        / all slots), own_slots, reuse_slots; `entropy_bytes`.

    Raises:
        StoreError: a part is damaged.
    """
    parts = [_whole_file(store.path, MANIFEST)]
    parts.append(_part(store.trunk_entry.path, store.part_bytes(store.trunk_entry)))
    parts += [_part(entry.path, store.part_bytes(entry)) for entry in store.entries]
    known = {part["path"] for part in parts}
    files = sorted(file.relative_to(store.path).as_posix() for file in store.path.rglob("*") if file.is_file() and not file.is_symlink())
    parts += [{**_whole_file(store.path, path), "orphan": True} for path in files if path not in known]
    return {
        "parts": parts,
        "total_bytes": sum(part["bytes"] for part in parts),
        "tasks": [_task(store, entry.name, entry.parent, entry.size_bytes) for entry in store.entries],
        "entropy_bytes": entropy_bytes(store),
    }


def sharing_matrix(store: Store) -> tuple[tuple[str, ...], NDArray[np.float64]]:
    """Whose values each task uses.

    Returns:
        Owner names (the trunk, then the tasks in order), and a float64 array (tasks, owners): entry [i, j] is the fraction of the slots that task i
        uses whose value belongs to owner j. A row sums to 1, or to 0 for a task that uses no slot.
    """
    names = (TRUNK, *(entry.name for entry in store.entries))
    matrix = np.zeros((len(store.entries), len(names)))
    for row, entry in enumerate(store.entries):
        counts = np.zeros(len(names), np.int64)
        task = store.decoded(entry.name)
        for layer in store.architecture.layers:
            used = task.layers[layer.name].states != SlotState.PRUNED
            counts += np.bincount(_owners(task, layer.name, names)[used], minlength=len(names))
        matrix[row] = counts / max(int(counts.sum()), 1)
    return names, matrix


def _owners(owner: Owner, layer: str, names: tuple[str, ...]) -> NDArray[np.int64]:
    """Index of the owner of the value that the frozen view shows at each slot; -1 where there is none."""
    own = owner.layers[layer]
    owners = np.full(own.states.shape, -1, np.int64) if owner.parent is None else _owners(owner.parent, layer, names)
    if own.codes is not None:
        owners[own.states == SlotState.OWN] = names.index(owner.name)
    return owners


def _whole_file(folder: Path, path: str) -> dict[str, Any]:
    size_bytes = len(read_bytes(folder, path))
    return {"path": path, "bytes": size_bytes, "breakdown": {**dict.fromkeys(KINDS, 0), "metadata": size_bytes}}


def _part(path: str, data: bytes) -> dict[str, Any]:
    breakdown = dict.fromkeys(KINDS, 0)
    breakdown["metadata"], blobs = blob_sizes_bytes(data)
    for blob, size_bytes in blobs.items():
        breakdown[_KIND_OF_BLOB[blob]] += size_bytes
    return {"path": path, "bytes": len(data), "breakdown": breakdown}


def _task(store: Store, name: str, parent: str, size_bytes: int) -> dict[str, Any]:
    counts = np.zeros(len(SlotState), np.int64)
    for states in store.states(name).values():
        counts += np.bincount(states.reshape(-1), minlength=len(SlotState))
    return {
        "name": name,
        "parent": parent,
        "marginal_bytes": size_bytes,
        "density": float(counts[SlotState.REUSE] + counts[SlotState.OWN]) / max(store.architecture.size, 1),
        "own_slots": int(counts[SlotState.OWN]),
        "reuse_slots": int(counts[SlotState.REUSE]),
    }
