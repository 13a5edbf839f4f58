"""Small stores for the tests: a three-layer net with two unit groups, and random results that fit it."""

import numpy as np

from tsn_toolkit.contracts import (
    ActivationRange,
    GroupMember,
    HeadState,
    LayerCodes,
    LayerRecord,
    ModelGraph,
    NormState,
    TaskResult,
    TrunkResult,
    UnitGroup,
)
from tsn_toolkit.numerics.half import round_half
from tsn_toolkit.store.store import Store

OWN, REUSE, PRUNED = 2, 1, 0
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


def own_layer(rng: np.random.Generator, states: np.ndarray, bit_width: int) -> LayerCodes:
    codebook = np.sort(rng.choice(np.arange(-127, 128), 1 << bit_width, replace=False)).astype(np.int8)
    codes = np.minimum(rng.geometric(0.3, int((states == OWN).sum())) - 1, (1 << bit_width) - 1).astype(np.uint8)
    return LayerCodes(states.astype(np.uint8), codes, codebook, bit_width, vector(rng, len(states)))


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
    store: Store, name: str, parent: str = "trunk", *, seed: int = 0, bit_width: int = 2, shared: tuple[str, ...] = (), masked: bool = True
) -> TaskResult:
    """A random task over the frozen view of its parent."""
    graph = make_graph(store.architecture.groups[0].size // 6)
    rng = np.random.default_rng(seed)
    masks = {}
    if masked:
        for group in graph.groups[:2]:
            masks[group.name] = rng.random(group.size) < 0.7
            masks[group.name][0] = True
    kept = expand(masks, graph)
    frozen = store.frozen_view(parent)
    layers = {}
    for layer, slots in kept.items():
        if layer in shared:
            continue
        wish = rng.choice([PRUNED, REUSE, OWN], size=slots.shape, p=[0.6, 0.25, 0.15])
        wish = np.where((wish == REUSE) & ~frozen[layer].present, OWN, wish)
        layers[layer] = own_layer(rng, np.where(slots, wish, PRUNED), bit_width)
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
