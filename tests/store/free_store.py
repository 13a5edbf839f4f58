"""Stores of a net with free parameters: a token, positions, a factor per input and a scalar.

`free` over a seed:        trunk -> first -> heir            first owns all four; heir has some of its units and owns nothing
                                    first -> wide (int8)     keeps units that first removed, so that it owns token and positions
`free_trunk` trained:      trunk -> kept                     inherits all
                           trunk -> own                      owns the factor alone
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import store_samples as samples
from store_samples import OWN, PRUNED

from tsn_toolkit.contracts import FreeParameterRecord, GroupMember, HeadState, LayerRecord, ModelGraph, TaskResult, TrunkResult, UnitGroup
from tsn_toolkit.numerics.vector_rows import round_rows
from tsn_toolkit.store.store import Store

UNITS, INPUTS = 6, 4
SHAPES = {"token": (1, 1, UNITS), "positions": (3, UNITS), "factor": (INPUTS,), "scale": ()}
FIRST, HEIR, WIDE = (np.array(mask, bool) for mask in ([1, 1, 0, 1, 1, 0], [1, 0, 0, 1, 1, 0], [1, 1, 1, 0, 1, 1]))
"""Units that the tasks keep."""


def free_graph() -> ModelGraph:
    """fc (6, 4) -> head (3, 6); the units of fc go through the last dimension of token and positions."""
    units = np.arange(UNITS)
    members = (
        GroupMember("fc.weight", 0, units),
        GroupMember("head.weight", 1, units),
        GroupMember("positions", 1, units),
        GroupMember("token", 2, units),
    )
    layers = (LayerRecord("fc", "Linear", (UNITS, INPUTS), 1), LayerRecord("head", "Linear", (3, UNITS), 1))
    records = tuple(FreeParameterRecord(name, shape) for name, shape in SHAPES.items())
    return ModelGraph((), (), layers, (UnitGroup("fc", UNITS, members, ("fc",)),), "head", (INPUTS,), "free", free_parameters=records)


def free_values(rng, mask=None, precision="half"):
    """All four parameters, 0 at units that are gone."""
    values = {name: round_rows(np.asarray(rng.normal(size=shape), np.float32), precision) for name, shape in SHAPES.items()}
    for name in ("token", "positions"):
        values[name] = round_rows(values[name] * (1 if mask is None else mask), precision).astype(np.float32)
    return values


def free_task(rng, store, name, parent, mask, free, precision="half"):
    """A task that owns some slots and hands over `free`."""
    kept = np.repeat(mask[:, None], INPUTS, 1)
    one = np.float32(0.5)
    layer = replace(samples.own_layer(rng, np.where(kept & (rng.random(kept.shape) < 0.6), OWN, PRUNED), 2), scale=np.full(UNITS, one))
    head = HeadState(rng.integers(-9, 9, (2, UNITS)).astype(np.int8) * mask.astype(np.int8), np.full(2, one), np.full(2, one))
    masks = {} if mask.all() else {"fc": mask}
    return TaskResult(
        name, parent, "exact", "sample", (0, 1), masks, {"fc": layer}, {}, {}, head, {}, vector_precision=precision, free_parameters=free
    )


def make_free_store(path: Path) -> Store:
    """`free` of the drawing."""
    rng = np.random.default_rng(23)
    trunk = TrunkResult("seed", 7, {}, {}, {}, None)
    store = Store.create(path, trunk=trunk, graph=free_graph(), recipe={})
    store.commit(free_task(rng, store, "first", "trunk", FIRST, free_values(rng, FIRST)), {})
    store.commit(free_task(rng, store, "heir", "first", HEIR, {}), {})
    wide = free_values(rng, WIDE, "int8")
    store.commit(free_task(rng, store, "wide", "first", WIDE, {name: wide[name] for name in ("token", "positions")}, "int8"), {})
    return Store.open(path)


def make_free_trunk_store(path: Path) -> Store:
    """`free_trunk` of the drawing."""
    rng = np.random.default_rng(29)
    layers = {"fc": samples.own_layer(rng, np.full((UNITS, INPUTS), OWN), 4)}
    trunk = TrunkResult("checkpoint", 7, layers, {}, {}, None, free_parameters=free_values(rng))
    store = Store.create(path, trunk=trunk, graph=free_graph(), recipe={})
    every = np.ones(UNITS, bool)
    store.commit(free_task(rng, store, "kept", "trunk", FIRST, {}), {})
    own = {**trunk.free_parameters, "factor": trunk.free_parameters["factor"] * np.float32(2)}
    store.commit(free_task(rng, store, "own", "trunk", every, own), {})
    return Store.open(path)
