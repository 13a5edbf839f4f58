"""Where a store's bytes are, and whose weights each task uses."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from tsn_toolkit.store.allocation import allocation
from tsn_toolkit.store.capacity import capacity
from tsn_toolkit.store.entropy_size import entropy_bytes
from tsn_toolkit.store.folder import MANIFEST, read_bytes
from tsn_toolkit.store.lineage import OwnerLayer
from tsn_toolkit.store.manifest import marginal_bytes
from tsn_toolkit.store.part_files import Entry
from tsn_toolkit.store.sharing import sharing
from tsn_toolkit.store.store import Store
from tsn_toolkit.vocabulary import TRUNK, SlotState

KINDS = ("values", "masks", "codebooks", "scales", "norms", "biases", "heads", "metadata")

_KIND_OF_BLOB = {
    "layers": "metadata",
    "masks": "masks",
    "values": "values",
    "codebooks": "codebooks",
    "scales": "scales",
    "ranges": "scales",
    "norms": "norms",
    "biases": "biases",
    "head": "heads",
    "memory": "memory",  # only in the parts of revisions
    "free_parameters": "free_parameters",  # only where a part owns some
}

_SLOTS = {"own_slots": SlotState.OWN, "reuse_slots": SlotState.REUSE, "refine_slots": SlotState.REFINE}


def inspect_store(store: Store) -> dict[str, Any]:
    """Sizes of a store, as `tsn inspect --json` prints them.

    Returns:
        `parts`: path, bytes and breakdown of every regular file (activation ranges count as scales, headers and the manifest as metadata; `memory`
        is there where a revision keeps something, `free_parameters` where a part owns some; a file that belongs to no committed task also has
        `orphan`: true); `total_bytes`; `tasks`: name, parent, marginal_bytes (see `manifest.marginal_bytes`), density (used slots / all slots),
        own_slots, reuse_slots, refine_slots, and for each of its `layers` these three and bit_width (of own codes); `layers`: name, slots,
        word_bits, allocated (bits taken -> slots), by_owner (owner -> bits), free_bits; `capacity`: room for more tasks, see `capacity.Capacity`;
        `sharing`: see `sharing.Sharing`; `entropy_bytes`.

    Raises:
        StoreError: a part is damaged.
    """
    parts = [_whole_file(store.path, MANIFEST)]
    parts += [_part(store, TRUNK, store.trunk_entry), *(_part(store, entry.name, entry) for entry in store.entries)]
    known = {part["path"] for part in parts}
    files = sorted(file.relative_to(store.path).as_posix() for file in store.path.rglob("*") if file.is_file() and not file.is_symlink())
    parts += [{**_whole_file(store.path, path), "orphan": True} for path in files if path not in known]
    tasks, layers = _tasks(store), allocation(store)
    widths = {task["name"]: {name: layer["bit_width"] for name, layer in task["layers"].items()} for task in tasks}
    inside = tuple(entry.name for entry in store.entries if entry.isolation != "none")
    return {
        "parts": parts,
        "total_bytes": sum(part["bytes"] for part in parts),
        "tasks": tasks,
        "layers": [{"name": name, **asdict(words), "free_bits": words.free_bits} for name, words in layers.items()],
        "capacity": asdict(capacity(layers, widths, inside)),
        "sharing": sharing(store).record(),
        "entropy_bytes": entropy_bytes(store),
    }


def _whole_file(folder: Path, path: str) -> dict[str, Any]:
    size_bytes = len(read_bytes(folder, path))
    return {"path": path, "bytes": size_bytes, "breakdown": {**dict.fromkeys(KINDS, 0), "metadata": size_bytes}}


def _part(store: Store, owner: str, entry: Entry) -> dict[str, Any]:
    part = store.part(owner).part
    breakdown = {**dict.fromkeys(KINDS, 0), "metadata": part.header_bytes}
    for blob, size_bytes in part.sizes_bytes.items():
        kind = _KIND_OF_BLOB[blob]
        if size_bytes or kind in KINDS:
            breakdown[kind] = breakdown.get(kind, 0) + size_bytes
    return {"path": entry.path, "bytes": entry.size_bytes, "breakdown": breakdown}


def _tasks(store: Store) -> list[dict[str, Any]]:
    layers: dict[str, dict[str, dict[str, int]]] = {entry.name: {} for entry in store.entries}
    for layer, owners in store.layers_of_all():
        for name, held in owners:
            if name != TRUNK:
                layers[name][layer.name] = _task_layer(held)
    added = marginal_bytes(store.entries)
    totals = {name: {key: sum(layer[key] for layer in found.values()) for key in _SLOTS} for name, found in layers.items()}
    return [
        {
            "name": entry.name,
            "parent": entry.parent,
            "marginal_bytes": added[entry.name],
            "density": sum(totals[entry.name].values()) / max(store.architecture.size, 1),
            **totals[entry.name],
            "layers": layers[entry.name],
        }
        for entry in store.entries
    ]


def _task_layer(held: OwnerLayer) -> dict[str, int]:
    """Slots by what the task does with them, and bits per own code (1 of a plane, 0 where nothing is its own)."""
    counts = np.bincount(held.states.reshape(-1), minlength=len(SlotState))
    return {**{key: int(counts[state]) for key, state in _SLOTS.items()}, "bit_width": held.own_bits}
