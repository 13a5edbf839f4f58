"""Stores with random tasks whose masks are correlated as learned ones are: a task keeps 70 % of the positions that its parent uses.

A kind of store is how its tasks keep their layers:

- `element`, `block(16)`: codes over an untrained trunk; a task uses a tenth of all slots, its own where nobody in its chain owns one yet;
- `unit`: the same with half of the units of each group and all slots inside them;
- `planes`: a sign per slot and a gain per channel over whatever the chain holds;
- `shared`: every task takes all layers of a trained 4-bit trunk and brings norms and a head only;
- `trained`: over a trained 4-bit trunk each task owns a twentieth of the slots and reuses all others.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from store_speed.network import CLASSES, HEAD_GROUP, norms, resnet18_graph
from tsn_toolkit.contracts import FrozenLayer, HeadState, LayerCodes, LayerPlanes, LayerRecord, TaskResult, TrunkResult
from tsn_toolkit.store.store import Store
from tsn_toolkit.vocabulary import SlotState

KINDS = ("element", "block(16)", "unit", "planes", "shared", "trained")
DENSITY = {"element": 0.1, "block(16)": 0.1, "trained": 0.05}
KEPT_UNITS = 0.5
KEPT_FROM_PARENT = 0.7
BIT_WIDTH = 4
BLOCK = 16
WORD_BITS = 512

Masks = dict[str, np.ndarray]


class Chain:
    """A store that grows by one random task at a time, each the child of the one before."""

    def __init__(self, folder: Path, kind: str, width: int, seed: int = 0) -> None:
        self.kind = kind
        self.graph = resnet18_graph(width)
        self.layers = tuple(layer for layer in self.graph.layers if layer.name != self.graph.head)
        self._rng = np.random.default_rng(seed)
        self._masks: Masks = {}
        self._units: Masks = {}
        self.store = Store.create(folder, trunk=self._trunk(), graph=self.graph, recipe={})

    @property
    def size(self) -> int:
        """Weights of the coded layers."""
        return sum(int(np.prod(layer.shape)) for layer in self.layers)

    @property
    def newest(self) -> str:
        """The last task of the chain, or the trunk."""
        return self.store.entries[-1].name if self.store.entries else "trunk"

    def next_task(self, parent: str | None = None) -> TaskResult:
        """The next task, not committed yet; its parent is the newest one unless another is named."""
        parent = parent or self.newest
        if self.kind == "unit":
            self._units = {group.name: self._next_mask(self._units.get(group.name), group.size, KEPT_UNITS, 1) for group in self.graph.groups}
        layers = {} if self.kind == "shared" else self._layers(self.store.frozen_view(parent))
        head = self._rng.integers(-127, 128, (CLASSES, self.graph.layer("head").shape[1])).astype(np.int8)
        head[:, ~self._units.get(HEAD_GROUP, np.ones(head.shape[1], np.bool_))] = 0
        return TaskResult(
            name=f"task{len(self.store.entries)}",
            parent=parent,
            isolation="exact",
            strategy="random",
            classes=tuple(range(CLASSES)),
            unit_masks=self._units,
            layers=layers,
            norms=norms(self.graph, self._units),
            biases={},
            head=HeadState(head, _scale(CLASSES), np.zeros(CLASSES, np.float32)),
            ranges={},
        )

    def grow(self, length: int) -> None:
        """Commits tasks until the chain has `length`."""
        while len(self.store.entries) < length:
            self.store.commit(self.next_task(), {})

    def _trunk(self) -> TrunkResult:
        if self.kind not in ("shared", "trained"):
            return TrunkResult("seed", 0, {}, {}, {}, None, WORD_BITS)
        states = {layer.name: np.full(layer.shape, SlotState.OWN, np.uint8) for layer in self.layers}
        codes = {layer.name: self._codes(layer, states[layer.name], "element") for layer in self.layers}
        return TrunkResult("checkpoint", 0, codes, norms(self.graph, {}), {}, None, WORD_BITS)

    def _layers(self, frozen: dict[str, FrozenLayer]) -> dict[str, LayerCodes | LayerPlanes]:
        make: Callable[[LayerRecord, FrozenLayer], LayerCodes | LayerPlanes] = self._plane if self.kind == "planes" else self._masked_codes
        return {layer.name: make(layer, frozen[layer.name]) for layer in self.layers}

    def _plane(self, layer: LayerRecord, frozen: FrozenLayer) -> LayerPlanes:
        signs = self._rng.integers(0, 2, layer.shape, np.uint8).astype(np.bool_)
        gain = self._rng.integers(8, 64, layer.shape[0]).astype(np.int8)
        return LayerPlanes(signs, gain, _scale(layer.shape[0]))

    def _masked_codes(self, layer: LayerRecord, frozen: FrozenLayer) -> LayerCodes:
        if self.kind == "unit":
            used = self._kept_slots(layer)
        else:
            size = int(np.prod(layer.shape))
            block = BLOCK if self.kind == "block(16)" and layer.shape[1] % BLOCK == 0 else 1
            used = self._next_mask(self._masks.get(layer.name), size, DENSITY[self.kind], block).reshape(layer.shape)
            self._masks[layer.name] = used.reshape(-1)
        states = np.zeros(layer.shape, np.uint8)
        if self.kind == "trained":
            states[:] = np.where(used, SlotState.OWN, SlotState.REUSE)
        else:
            states[used] = np.where(frozen.present[used], SlotState.REUSE, SlotState.OWN)
        return self._codes(layer, states, "element" if self.kind == "trained" else self.kind)

    def _kept_slots(self, layer: LayerRecord) -> np.ndarray:
        kept = np.ones(layer.shape, np.bool_)
        for group in self.graph.groups:
            for member in group.members:
                if member.parameter == f"{layer.name}.weight":
                    kept &= self._units[group.name].reshape([-1 if axis == member.dim else 1 for axis in range(len(layer.shape))])
        return kept

    def _codes(self, layer: LayerRecord, states: np.ndarray, granularity: str) -> LayerCodes:
        """Codes as k-means leaves them on a bell-shaped distribution: middle entries are more frequent."""
        own = int((states == SlotState.OWN).sum())
        entries = np.linspace(-120, 120, 1 << BIT_WIDTH)
        codes = np.clip(np.rint(self._rng.normal(7.5, 3, own)), 0, len(entries) - 1).astype(np.uint8)
        codebook = np.rint(entries).astype(np.int8) if own else np.zeros(0, np.int8)
        return LayerCodes(states, codes, codebook, BIT_WIDTH if own else 0, _scale(layer.shape[0]), granularity)

    def _next_mask(self, parent: np.ndarray | None, size: int, density: float, block: int) -> np.ndarray:
        """Bool (size,): 70 % of the parent's blocks and new ones, or all new ones without a parent; `density` of all blocks."""
        blocks = size // block
        wanted = max(1, round(density * blocks))
        used = np.zeros(blocks, np.bool_)
        if parent is not None:
            before = np.flatnonzero(parent[::block])
            used[self._rng.choice(before, round(KEPT_FROM_PARENT * len(before)), replace=False)] = True
        free = np.flatnonzero(~used if parent is None else ~parent[::block])
        used[self._rng.choice(free, min(max(wanted - int(used.sum()), 0), len(free)), replace=False)] = True
        return np.repeat(used, block)


def _scale(channels: int) -> np.ndarray:
    return np.full(channels, 2.0**-10, np.float32)
