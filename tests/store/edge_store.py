"""A store of what a small network does not come by: large runs in both forms, a layer with one kept slot, revisions with and without a memory.

trunk -> gaps -> one      codes of `wide` as fields (trunk) and as gaps (gaps); one keeps one unit of each group
trunk -> old -> new       revisions of isolation `none`, old with a memory
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import store_samples as samples
from store_samples import OWN, PRUNED, REUSE

from tsn_toolkit.contracts import GroupMember, HeadState, LayerCodes, LayerRecord, ModelGraph, Revision, TaskResult, TrunkResult, UnitGroup
from tsn_toolkit.store.store import Store

INPUTS, HIDDEN, FEATURES, CLASSES = 1024, 16, 3, 3
MEMORY = {
    "x": np.array([[0, 7, 255], [1, 2, 3]], np.uint8),
    "labels": np.array([-1, 1 << 40]),
    "logits": np.array([[0.5, -2.0]], np.float16),
    "fisher/wide.weight": np.array([1e-9, 0.25], np.float32),
    "empty": np.zeros((0, 4), np.float32),
}


def edge_graph() -> ModelGraph:
    """wide (16, 1024) with bias -> small (3, 16) -> head (3, 3)."""
    hidden, features = np.arange(HIDDEN), np.arange(FEATURES)
    wide = (GroupMember("wide.weight", 0, hidden), GroupMember("wide.bias", 0, hidden), GroupMember("small.weight", 1, hidden))
    small = (GroupMember("small.weight", 0, features), GroupMember("head.weight", 1, features))
    shapes = {"wide": (HIDDEN, INPUTS), "small": (FEATURES, HIDDEN), "head": (CLASSES, FEATURES)}
    layers = tuple(LayerRecord(name, "Linear", shape, 1) for name, shape in shapes.items())
    groups = (UnitGroup("wide", HIDDEN, wide, ("wide",)), UnitGroup("small", FEATURES, small, ("small",)))
    return ModelGraph((), (), layers, groups, "head", (INPUTS,), "edge")


def make_edge_store(path: Path) -> Store:
    """The store of the drawing."""
    rng = np.random.default_rng(17)
    trunk = TrunkResult("checkpoint", 7, _trunk_layers(rng), {}, {"wide": samples.vector(rng, HIDDEN)}, None, word_bits=16)
    store = Store.create(path, trunk=trunk, graph=edge_graph(), recipe={})
    store.commit(_task(rng, "gaps", "trunk", {"wide": _nearly_the_same(rng)}), {})
    store.commit(_one(rng), {})
    old = Revision({"old": (1, 0)}, task_known=True, memory=MEMORY)
    store.commit(replace(_task(rng, "old", "trunk", {"wide": _nearly_the_same(rng)}), isolation="none", revision=old), {})
    new = Revision({"old": (1, 0), "new": (2,)}, task_known=False)
    store.commit(replace(_task(rng, "new", "old", {}), isolation="none", revision=new), {})
    return Store.open(path)


def _trunk_layers(rng) -> dict[str, LayerCodes]:
    """Codes of `wide` that repeat, so that one frame of all of them takes few bytes."""
    codes = np.tile(rng.choice(4, 128, p=[0.5, 0.3, 0.15, 0.05]).astype(np.uint8), HIDDEN * INPUTS // 128)
    wide = replace(samples.own_layer(rng, np.full((HIDDEN, INPUTS), OWN), 2), codes=codes)
    return {"wide": wide, "small": samples.own_layer(rng, np.full((FEATURES, HIDDEN), OWN), 1)}


def _nearly_the_same(rng) -> LayerCodes:
    """Codes of `wide` that are nearly all 1 and repeat in a period that no whole bytes have, so that gaps take fewer bytes than fields."""
    period = np.where(rng.random(509) < 0.97, 1, rng.choice([0, 2, 3], 509)).astype(np.uint8)
    return replace(samples.own_layer(rng, np.full((HIDDEN, INPUTS), OWN), 2), codes=np.resize(period, HIDDEN * INPUTS))


def _one(rng) -> TaskResult:
    """One unit of each group: one kept slot of `small`, its own; a row of `wide` that is mostly the parent's."""
    units = {"wide": np.arange(HIDDEN) == 5, "small": np.arange(FEATURES) == 2}
    small = np.where(units["small"][:, None] & units["wide"], OWN, PRUNED)
    wide = np.where(units["wide"][:, None] & (rng.random((HIDDEN, INPUTS)) < 0.95), REUSE, PRUNED)
    reused = replace(samples.own_layer(rng, wide, 0), codebook=np.zeros(0, np.int8))
    layers = {"wide": reused, "small": samples.own_layer(rng, small, 3)}
    return _task(rng, "one", "gaps", layers, units)


def _task(rng, name, parent, layers, units=None) -> TaskResult:
    units = units or {}
    hidden, features = units.get("wide", np.ones(HIDDEN, bool)), units.get("small", np.ones(FEATURES, bool))
    codes = (rng.integers(-7, 8, (CLASSES, FEATURES)) * features).astype(np.int8)
    return TaskResult(
        name=name,
        parent=parent,
        isolation="exact",
        strategy="sample",
        classes=(4, 2, 9),
        unit_masks=units,
        layers=layers,
        norms={},
        biases={"wide": samples.vector(rng, HIDDEN, hidden)},
        head=HeadState(codes, samples.vector(rng, CLASSES), samples.vector(rng, CLASSES)),
        ranges={},
        validation={"accuracy": 0.5},
    )
