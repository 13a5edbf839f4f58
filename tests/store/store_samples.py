"""Small stores for the tests: a three-layer net with two unit groups, and random results that fit it."""

import functools

import numpy as np

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
from tsn_toolkit.numerics.half import round_half
from tsn_toolkit.store.store import Store

PRUNED, REUSE, OWN, REFINE = range(4)
SHAPES = {"conv1": (6, 1, 3, 3), "conv2": (4, 6, 3, 3), "fc": (5, 16)}
RECIPE = {"seed": 3, "plan": {"density": 0.5}}


def make_graph(width: int = 1) -> ModelGraph:
    """conv1 -> bn1 -> conv2 (bias) -> flatten 2x2 -> fc -> head; conv1's and conv2's units may go."""
    a, b = 6 * width, 4 * width
    shapes = {"conv1": (a, 1, 3, 3), "conv2": (b, a, 3, 3), "fc": (5, 4 * b), "head": (2, 5)}
    identity_a, identity_b = np.arange(a), np.arange(b)
    bn = [GroupMember(f"bn1.{suffix}", 0, identity_a) for suffix in ("weight", "bias", "running_mean", "running_var")]
    groups = (
        UnitGroup("conv1", a, (GroupMember("conv1.weight", 0, identity_a), *bn, GroupMember("conv2.weight", 1, identity_a)), ("conv1",)),
        UnitGroup(
            "conv2",
            b,
            (
                GroupMember("conv2.weight", 0, identity_b),
                GroupMember("conv2.bias", 0, identity_b),
                GroupMember("fc.weight", 1, np.repeat(identity_b, 4)),
            ),
            ("conv2",),
        ),
        UnitGroup("fc", 5, (GroupMember("fc.weight", 0, np.arange(5)), GroupMember("head.weight", 1, np.arange(5))), ("fc",)),
    )
    layers = tuple(LayerRecord(name, "Conv2d" if len(shape) == 4 else "Linear", shape, 1) for name, shape in shapes.items())
    return ModelGraph((), (), layers, groups, "head", (1, 8, 8), "fingerprint")


def vector(rng: np.random.Generator, size: int, kept: np.ndarray | None = None) -> np.ndarray:
    """A float32 vector that is stored exactly; 0 where not kept."""
    values = rng.uniform(0.001, 2, size).astype(np.float32)
    return round_half(values if kept is None else values * kept)


def own_layer(rng: np.random.Generator, states: np.ndarray, bit_width: int, granularity: str = "element", refine_bits: int = 0) -> LayerCodes:
    codes, codebook = random_codes(rng, int((states == OWN).sum()), bit_width)
    refinement = Refinement(*random_codes(rng, int((states == REFINE).sum()), refine_bits), refine_bits) if refine_bits else None
    return LayerCodes(states.astype(np.uint8), codes, codebook, bit_width, vector(rng, len(states)), granularity, refinement)


def random_codes(rng: np.random.Generator, count: int, bit_width: int) -> tuple[np.ndarray, np.ndarray]:
    """Codes that are not equally likely, and a codebook."""
    codebook = np.sort(rng.choice(np.arange(-127, 128), 1 << bit_width, replace=bit_width == 8)).astype(np.int8)
    return np.minimum(rng.geometric(0.3, count) - 1, (1 << bit_width) - 1).astype(np.uint8), codebook


def make_trunk(graph: ModelGraph, seed: int = 0) -> TrunkResult:
    rng = np.random.default_rng(seed)
    layers = {layer.name: own_layer(rng, np.full(layer.shape, OWN), 4) for layer in graph.layers if layer.name != "head"}
    a, b = graph.groups[0].size, graph.groups[1].size
    head = HeadState(rng.integers(-127, 128, (3, 5)).astype(np.int8), vector(rng, 3), vector(rng, 3))
    return TrunkResult("checkpoint", 7, layers, {"bn1": NormState(vector(rng, a), vector(rng, a))}, {"conv2": vector(rng, b)}, head)


SEED_TRUNK = TrunkResult("seed", 7, {}, {}, {}, None)


def expand(masks: dict[str, np.ndarray], graph: ModelGraph) -> dict[str, np.ndarray]:
    """Kept slots per layer, written out by hand for this net."""
    a, b, c = (masks.get(g.name, np.ones(g.size, bool)) for g in graph.groups)
    conv1 = np.zeros(graph.layer("conv1").shape, bool)
    conv1[a] = True
    conv2 = np.zeros(graph.layer("conv2").shape, bool)
    conv2[np.ix_(b, a)] = True
    fc = np.zeros(graph.layer("fc").shape, bool)
    fc[np.ix_(c, np.repeat(b, 4))] = True
    return {"conv1": conv1, "conv2": conv2, "fc": fc}


def make_task(
    store: Store,
    name: str,
    parent: str = "trunk",
    *,
    seed: int = 0,
    bit_width: int = 2,
    refine_bits: int = 0,
    shared: tuple[str, ...] = (),
    planes: tuple[str, ...] = (),
    masked: bool = True,
) -> TaskResult:
    """A random task over the frozen view of its parent; with `refine_bits` it refines some slots."""
    graph = make_graph(store.architecture.groups[0].size // 6)
    rng = np.random.default_rng(seed)
    masks = {}
    if masked:
        for group in graph.groups[:2]:
            masks[group.name] = rng.random(group.size) < 0.7
            masks[group.name][0] = True
    kept = expand(masks, graph)
    frozen = store.frozen_view(parent)
    layers: dict[str, LayerCodes | LayerPlanes] = {}
    for layer, slots in kept.items():
        if layer in shared:
            continue
        if layer in planes:
            gain = rng.integers(0, 128, len(slots)) * slots.reshape(len(slots), -1).any(axis=1)
            layers[layer] = LayerPlanes((rng.random(slots.shape) < 0.5) & slots, gain.astype(np.int8), vector(rng, len(slots)))
            continue
        wish = rng.choice([PRUNED, REUSE, OWN], size=slots.shape, p=[0.6, 0.25, 0.15])
        if refine_bits:
            wish[(wish == REUSE) & (rng.random(slots.shape) < 0.5)] = REFINE
        wish = np.where((wish != PRUNED) & ~frozen[layer].present, OWN, wish)
        layers[layer] = own_layer(rng, np.where(slots, wish, PRUNED), bit_width, refine_bits=refine_bits)
    a = masks.get("conv1", np.ones(graph.groups[0].size, bool))
    b = masks.get("conv2", np.ones(graph.groups[1].size, bool))
    return TaskResult(
        name=name,
        parent=parent,
        isolation="exact",
        strategy="sample",
        classes=(2, 5),
        unit_masks=masks,
        layers=layers,
        norms={"bn1": NormState(vector(rng, len(a), a), vector(rng, len(a), a))},
        biases={"conv2": vector(rng, len(b), b)},
        head=HeadState(rng.integers(-127, 128, (2, 5)).astype(np.int8), vector(rng, 2), vector(rng, 2)),
        ranges={"relu1": ActivationRange(float(np.float32(0.1)), -3, True), "input": ActivationRange(0.5, 0, False)},
        validation={"accuracy": 0.875},
    )


FORMS_WIDTH = 3


FORMS = {
    "first": ("trunk", lambda store, rng, known: rng.random(known.shape) < 0.1, {}),
    "near": ("first", lambda store, rng, known: rng.random(known.shape) < np.where(known, 0.9, 0.02), {}),
    "same": ("near", lambda store, rng, known: used_by(store, "near"), {}),
    "blocks": ("near", lambda store, rng, known: blocks(rng, known.shape, 4), {"granularity": "block(4)"}),
    "choices": ("near", lambda store, rng, known: choices(rng, known.shape), {"granularity": "2:4"}),
    "half": ("first", lambda store, rng, known: rng.random(known.shape) < 0.5, {}),
    "few": ("trunk", lambda store, rng, known: few(rng, known.shape), {}),
    "refined": ("near", lambda store, rng, known: rng.random(known.shape) < 0.3, {"refine_bits": 3}),
    "plane": ("refined", lambda store, rng, known: rng.random(known.shape) < 0.5, {"planes": ("fc",)}),
    "beside": ("first", lambda store, rng, known: rng.random(known.shape) < 0.3, {"isolation": "none"}),
}
"""Task -> parent, mask, and what is special about it; together they take every encoding and every layout of masks."""


def build_forms(path, names=tuple(FORMS)) -> tuple[Store, set[int]]:
    """A store of some of the tasks of `FORMS` (each after its parent), and the layouts of masks found in it."""
    store = Store.create(path, trunk=SEED_TRUNK, graph=make_graph(FORMS_WIDTH), recipe=RECIPE)
    for name in names:
        parent, mask, special = FORMS[name]
        task = formed_task(store, name, parent, functools.partial(mask, store), **special)
        store.commit(task, {"seed": 4} if name == "near" else RECIPE)
    layouts = {int(held.form.layout) for entry in store.entries for _, held in store.layers(entry.name) if held.form is not None}
    return Store.open(path), layouts


def formed_task(store, name, parent, mask, granularity="element", *, refine_bits=0, planes=(), isolation="exact") -> TaskResult:
    """A task that uses the slots that `mask` (rng, known) marks: REUSE where something is known, REFINE at some of them, else OWN."""
    rng = np.random.default_rng(list(name.encode()))
    frozen = store.frozen_view(parent)
    layers: dict[str, LayerCodes | LayerPlanes] = {}
    for layer in store.architecture.layers:
        present = frozen[layer.name].present
        marked = mask(rng, present)
        marked = marked[layer.name] if isinstance(marked, dict) else marked
        inherited = np.where(rng.random(present.shape) < 0.4, REFINE, REUSE) if refine_bits else REUSE
        states = np.where(marked, np.where(present, inherited, OWN), PRUNED)
        if layer.name in planes:
            gain = rng.integers(1, 20, layer.shape[0]).astype(np.int8)
            layers[layer.name] = LayerPlanes(rng.random(layer.shape) < 0.5, gain, vector(rng, layer.shape[0]))
        else:
            layers[layer.name] = own_layer(rng, states, 2, granularity, refine_bits)
    units, outputs = store.architecture.groups[0].size, store.architecture.groups[1].size
    return TaskResult(
        name=name,
        parent=parent,
        isolation=isolation,
        strategy="sample",
        classes=(0, 1),
        unit_masks={},
        layers=layers,
        norms={"bn1": NormState(vector(rng, units), vector(rng, units))},
        biases={"conv2": vector(rng, outputs)},
        head=HeadState(rng.integers(-7, 8, (2, 5)).astype(np.int8), vector(rng, 2), vector(rng, 2)),
        ranges={},
    )


def used_by(store, name) -> dict[str, np.ndarray]:
    return {layer: states != PRUNED for layer, states in store.states(name).items()}


def blocks(rng, shape, size) -> np.ndarray:
    length = int(np.prod(shape[1:]))
    kept = rng.random((shape[0], -(-length // size))) < 0.3
    return np.repeat(kept, size, axis=1)[:, :length].reshape(shape)


def choices(rng, shape) -> np.ndarray:
    length = int(np.prod(shape[1:]))
    ranks = rng.random((shape[0], -(-length // 4), 4))
    if length % 4:
        ranks[:, -1, length % 4 :] = 2.0
    return (ranks.argsort(axis=2).argsort(axis=2) < 2).reshape(shape[0], -1)[:, :length].reshape(shape)


def few(rng, shape) -> np.ndarray:
    marked = np.zeros(shape, bool)
    marked.flat[rng.integers(marked.size)] = True
    return marked
