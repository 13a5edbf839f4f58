"""A store of two lineages with every way to own bits: codes, reuse, refinement, a plane, a shared layer, int8 vectors, a revision beside the words.

    trunk -> a -> b -> c        b refines, c is a plane over b; a and b share or reuse what is above them
    trunk -> d -> e -> f        e is a revision of isolation `none`; f inherits from it

Code books are distinct and small and gains positive, so that every changed bit changes a weight and nothing is clipped.
"""

from pathlib import Path

import numpy as np
import store_samples
from edge_store import make_edge_store
from free_store import make_free_store, make_free_trunk_store

from tsn_toolkit.contracts import (
    ActivationRange,
    GroupMember,
    HeadState,
    LayerCodes,
    LayerPlanes,
    LayerRecord,
    ModelGraph,
    NormState,
    Refinement,
    TaskResult,
    TrunkResult,
    UnitGroup,
)
from tsn_toolkit.numerics.vectors import round_vector
from tsn_toolkit.store.store import Store
from tsn_toolkit.vocabulary import VectorPrecision

PRUNED, REUSE, OWN, REFINE = range(4)
PARENTS = {"a": "trunk", "b": "a", "c": "b", "d": "trunk", "e": "d", "f": "e"}
INPUTS, HIDDEN, FEATURES, CLASSES = 5, 4, 3, 2


def mixed_graph() -> ModelGraph:
    """fc1 (4, 5) -> norm -> fc2 (3, 4) with bias -> head (2, 3); the units of fc1 and of fc2 may go."""
    hidden, features = np.arange(HIDDEN), np.arange(FEATURES)
    shapes = {"fc1": (HIDDEN, INPUTS), "fc2": (FEATURES, HIDDEN), "head": (CLASSES, FEATURES)}
    norm = [GroupMember(f"norm.{suffix}", 0, hidden) for suffix in ("weight", "bias", "running_mean", "running_var")]
    bias = GroupMember("fc2.bias", 0, features)
    groups = (
        UnitGroup("fc1", HIDDEN, (GroupMember("fc1.weight", 0, hidden), *norm, GroupMember("fc2.weight", 1, hidden)), ("fc1",)),
        UnitGroup("fc2", FEATURES, (GroupMember("fc2.weight", 0, features), bias, GroupMember("head.weight", 1, features)), ("fc2",)),
    )
    layers = tuple(LayerRecord(name, "Linear", shape, 1) for name, shape in shapes.items())
    return ModelGraph((), (), layers, groups, "head", (INPUTS,), "mixed")


def _vector(rng: np.random.Generator, size: int, kept: np.ndarray | None = None, precision: VectorPrecision = "half") -> np.ndarray:
    values = rng.uniform(0.1, 2, size)
    return round_vector(values if kept is None else values * kept, precision)


def _codebook(rng: np.random.Generator, bit_width: int, largest: int) -> np.ndarray:
    return np.sort(rng.choice(np.arange(-largest, largest + 1), 1 << bit_width, replace=False)).astype(np.int8)


def _codes(rng: np.random.Generator, states: np.ndarray, bit_width: int, refine_bits: int = 0, precision: VectorPrecision = "half") -> LayerCodes:
    def drawn(state: int, bits: int) -> np.ndarray:
        return rng.integers(0, 1 << bits, int((states == state).sum())).astype(np.uint8)

    refinement = Refinement(drawn(REFINE, refine_bits), _codebook(rng, refine_bits, 8), refine_bits) if refine_bits else None
    scale = _vector(rng, len(states), precision=precision)
    return LayerCodes(states.astype(np.uint8), drawn(OWN, bit_width), _codebook(rng, bit_width, 40), bit_width, scale, refinement=refinement)


def mixed_trunk(seed: int = 0, *, fresh: bool = False, word_bits: int = 32) -> TrunkResult:
    """A checkpoint of 3 bits per slot, or (`fresh`) a seed."""
    if fresh:
        return TrunkResult("seed", 5, {}, {}, {}, None, word_bits)
    rng = np.random.default_rng(seed)
    layers = {name: _codes(rng, np.full(shape, OWN), 3) for name, shape in (("fc1", (HIDDEN, INPUTS)), ("fc2", (FEATURES, HIDDEN)))}
    head = HeadState(rng.integers(-127, 128, (CLASSES, FEATURES)).astype(np.int8), _vector(rng, CLASSES), _vector(rng, CLASSES))
    return TrunkResult(
        "checkpoint", 0, layers, {"norm": NormState(_vector(rng, HIDDEN), _vector(rng, HIDDEN))}, {"fc2": _vector(rng, FEATURES)}, head, word_bits
    )


def mixed_task(store: Store, name: str, *, seed: int = 0, parent: str | None = None) -> TaskResult:
    """The task of that name as the drawing above has it; any other name is a task of codes over `parent`."""
    rng = np.random.default_rng([seed, *name.encode()])
    parent = PARENTS.get(name, parent or "trunk")
    masks = {"fc1": np.arange(HIDDEN) != rng.integers(HIDDEN)} if name in "ac" else {}
    if name == "f":
        masks = {"fc2": np.arange(FEATURES) != rng.integers(FEATURES)}
    hidden, features = masks.get("fc1", np.ones(HIDDEN, bool)), masks.get("fc2", np.ones(FEATURES, bool))
    precision: VectorPrecision = "int8" if name == "f" else "half"
    kept = {"fc1": np.repeat(hidden[:, None], INPUTS, 1), "fc2": features[:, None] & hidden[None, :]}
    frozen = store.frozen_view(parent)
    layers: dict[str, LayerCodes | LayerPlanes] = {}
    for layer, slots in kept.items():
        present = frozen[layer].present
        wish = rng.choice([PRUNED, REUSE, OWN, REFINE], size=slots.shape, p=[0.2, 0.3, 0.3, 0.2])
        if name != "b":
            wish[wish == REFINE] = REUSE
        states = np.where(slots, np.where(present | (wish == PRUNED), wish, OWN), PRUNED)
        if name == "c" and layer == "fc1":
            gain = rng.integers(1, 6, HIDDEN).astype(np.int8) * hidden
            layers[layer] = LayerPlanes((rng.random(slots.shape) < 0.5) & slots, gain.astype(np.int8), _vector(rng, HIDDEN))
        elif name != "b" or layer != "fc2" or frozen[layer].scale is None:
            layers[layer] = _codes(rng, states, {"a": 2, "d": 1, "f": 4}.get(name, 3), 2 if name == "b" else 0, precision)
    return TaskResult(
        name=name,
        parent=parent,
        isolation="none" if name == "e" else "exact",
        strategy="sample",
        classes=(1, 0),
        unit_masks=masks,
        layers=layers,
        norms={"norm": NormState(_vector(rng, HIDDEN, hidden, precision), _vector(rng, HIDDEN, hidden, precision))},
        biases={"fc2": _vector(rng, FEATURES, features, precision)},
        head=HeadState(
            (rng.integers(-127, 128, (CLASSES, FEATURES)) * features).astype(np.int8),
            _vector(rng, CLASSES, precision=precision),
            _vector(rng, CLASSES, precision=precision),
        ),
        ranges={"input": ActivationRange(0.5, 0, False)},
        validation={"accuracy": 0.875},
        vector_precision=precision,
    )


def make_mixed_store(path: Path, *, seed: int = 0, fresh: bool = False, tasks: str = "abcdef", word_bits: int = 32) -> Store:
    """The store of the drawing, its tasks committed in the order of their names."""
    trunk = mixed_trunk(seed, fresh=fresh, word_bits=word_bits)
    store = Store.create(path, trunk=trunk, graph=mixed_graph(), recipe={"seed": 3, "plan": {"density": 0.5}})
    for name in tasks:
        store.commit(mixed_task(store, name, seed=seed), {"seed": 3, "task_index": ord(name)})
    return Store.open(path)


def make_formed_store(path: Path) -> Store:
    """A store with every encoding and every layout of masks, and with entropy-coded codes."""
    store, _ = store_samples.build_forms(path)
    store.commit(store_samples.make_task(store, "coded", bit_width=4, masked=False), {})
    return store


EDGES, FREE, FREE_TRUNK = "edges", "free", "free-trunk"
WHOLE_STORES = {EDGES: make_edge_store, FREE: make_free_store, FREE_TRUNK: make_free_trunk_store}
SMALL_STORES = ("abc", "def", "first near same", "first near blocks", "first near choices", "first half", "few coded", "first near refined plane")
SMALL_STORES += ("first beside", EDGES, FREE, FREE_TRUNK)
"""Tasks of each small store: together every task, encoding and layout of the large ones, every lineage with all its ancestors."""


def make_small_stores(folder: Path) -> dict[str, Store]:
    """The two stores above in pieces, each with all that its tasks inherit, and those of `edge_store.py` and `free_store.py`: quick to read."""
    stores = {}
    for names in SMALL_STORES:
        path = folder / names.replace(" ", "-")
        if names in WHOLE_STORES:
            stores[path.name] = WHOLE_STORES[names](path)
            continue
        if " " not in names:
            stores[path.name] = make_mixed_store(path, tasks=names)
            continue
        store, _ = store_samples.build_forms(path, [name for name in names.split() if name in store_samples.FORMS])
        if "coded" in names:
            store.commit(store_samples.make_task(store, "coded", bit_width=4, masked=False), {})
        stores[path.name] = Store.open(path)
    return stores
