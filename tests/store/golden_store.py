"""Makes the stores that lie in `golden/`: python tests/store/golden_store.py FOLDER.

They are written once for a schema version (`free` and `free_trunk` for 2, all others for 1) and then only read: every later version must decode them,
and the writer of this version must give their bytes again for what they decode to. Together they hold every encoding, every layout of masks,
every form of codes. Beside them lie packed files of `PACKED_STORES`, which every later version must give back byte for byte.
"""

import sys
from dataclasses import replace
from pathlib import Path

import edge_store
import free_store
import numpy as np
import store_samples as samples
from store_samples import OWN, PRUNED, REFINE, REUSE

from tsn_toolkit.contracts import ActivationRange, HeadState, LayerCodes, LayerPlanes, ModelGraph, NormState, TaskResult, TrunkResult
from tsn_toolkit.numerics.vectors import round_vector
from tsn_toolkit.store.packing import pack_store
from tsn_toolkit.store.store import Store

WIDTH = 3
FOLDER = Path(__file__).parent / "golden"
PACKED_STORES = ("checkpoint", "free", "seed")


def write_golden(folder: Path) -> None:
    """Writes all stores and packed files."""
    rng = np.random.default_rng(11)
    graph = samples.make_graph(WIDTH)
    seed = Store.create(folder / "seed", trunk=samples.SEED_TRUNK, graph=graph, recipe=samples.RECIPE)
    seed.commit(_first(rng, seed), {**samples.RECIPE, "task_index": 0})
    seed.commit(_patterned(rng, seed), {**samples.RECIPE, "plan": {"density": 0.25}, "task_index": 1})
    seed.commit(_refined(rng, seed), {"task_index": 2})
    seed.commit(_beside(rng, seed), samples.RECIPE)
    trained = Store.create(folder / "checkpoint", trunk=_trunk(rng, graph), graph=graph, recipe={})
    trained.commit(_owning(rng, trained), {})
    edge_store.make_edge_store(folder / "edges")
    free_store.make_free_store(folder / "free")
    free_store.make_free_trunk_store(folder / "free_trunk")
    for name in PACKED_STORES:
        pack_store(Store.open(folder / name), folder / f"{name}.tsn")


def graph_of(store: str) -> ModelGraph:
    """The graph that a store was made for."""
    if store.startswith("free"):
        return free_store.free_graph()
    return edge_store.edge_graph() if store == "edges" else samples.make_graph(WIDTH)


def _first(rng, store):
    """Positions, entropy-coded slots without context, a bitmap."""
    density = {"conv1": 0.01, "conv2": 0.1, "fc": 0.5}
    layers = {}
    for layer in store.architecture.layers:
        used = rng.random(layer.shape) < density[layer.name]
        layers[layer.name] = samples.own_layer(rng, np.where(used, OWN, PRUNED), 4)
    return _task(rng, store, "first", "trunk", layers)


def _patterned(rng, store):
    """The parent's slots again, blocks, n of m; REUSE where the parent owns a value."""
    view, states = store.frozen_view("first"), store.states("first")
    shapes = {layer.name: layer.shape for layer in store.architecture.layers}
    masks = {
        "conv1": (states["conv1"] != PRUNED, "element"),
        "conv2": (samples.blocks(rng, shapes["conv2"], 4), "block(4)"),
        "fc": (samples.choices(rng, shapes["fc"]), "2:4"),
    }
    layers = {
        name: samples.own_layer(rng, np.where(used, np.where(view[name].present, REUSE, OWN), PRUNED), 3, granularity)
        for name, (used, granularity) in masks.items()
    }
    return _task(rng, store, "patterned", "first", layers)


def _refined(rng, store):
    """Residuals, contexts of ancestors, a plane, unit masks, int8 vectors."""
    units = {"conv1": rng.random(6 * WIDTH) < 0.8, "conv2": rng.random(4 * WIDTH) < 0.7}
    kept = samples.expand(units, samples.make_graph(WIDTH))
    view, above = store.frozen_view("patterned"), store.states("patterned")
    layers: dict[str, LayerCodes | LayerPlanes] = {}
    for name in ("conv1", "conv2"):
        used = rng.random(kept[name].shape) < np.where(above[name] != PRUNED, 0.8, 0.05)
        inherited = np.where(rng.random(kept[name].shape) < 0.3, REFINE, REUSE)
        states = np.where(used & kept[name], np.where(view[name].present, inherited, OWN), PRUNED)
        layers[name] = samples.own_layer(rng, states, 1, refine_bits=2)
    gain = rng.integers(1, 20, 5).astype(np.int8)
    layers["fc"] = LayerPlanes((rng.random(kept["fc"].shape) < 0.5) & kept["fc"], gain, samples.vector(rng, 5))
    return _int8(_task(rng, store, "refined", "patterned", layers, units))


def _beside(rng, store):
    """A revision of isolation `none` with a shared layer and a wide codebook."""
    used = rng.random((5, 16 * WIDTH)) < 0.9
    present = store.frozen_view("first")["fc"].present
    layer = samples.own_layer(rng, np.where(used, np.where(present & (rng.random(used.shape) < 0.6), REUSE, OWN), PRUNED), 6)
    return replace(_task(rng, store, "beside", "first", {"fc": layer}), isolation="none")


def _trunk(rng, graph):
    """Codes of every slot; those of conv2 so uneven that an exact table pays."""
    layers = {}
    for layer in graph.layers[:-1]:
        layers[layer.name] = samples.own_layer(rng, np.full(layer.shape, OWN), 2)
    codes = np.zeros(layers["conv2"].codes.size, np.uint8)
    codes[:45] = [1, 2, *[3] * 43]
    layers["conv2"] = replace(layers["conv2"], codes=codes)
    norm, bias = NormState(samples.vector(rng, 6 * WIDTH), samples.vector(rng, 6 * WIDTH)), samples.vector(rng, 4 * WIDTH)
    head = HeadState(rng.integers(-127, 128, (3, 5)).astype(np.int8), samples.vector(rng, 3), samples.vector(rng, 3))
    return TrunkResult("checkpoint", 7, layers, {"bn1": norm}, {"conv2": bias}, head, word_bits=16)


def _owning(rng, store):
    """Over a trained trunk: slots that own codes, are reused or refined; blocks of own codes, all else reused; a plane over the trunk."""
    states = rng.choice([PRUNED, REUSE, OWN, REFINE], (5, 16 * WIDTH), p=[0.1, 0.6, 0.2, 0.1])
    layers: dict[str, LayerCodes | LayerPlanes] = {"fc": samples.own_layer(rng, states, 3, refine_bits=1)}
    blocks = samples.blocks(rng, (4 * WIDTH, 6 * WIDTH, 3, 3), 4)
    layers["conv2"] = samples.own_layer(rng, np.where(blocks, OWN, REUSE), 2, "block(4)")
    gain = rng.integers(0, 128, 6 * WIDTH).astype(np.int8)
    layers["conv1"] = LayerPlanes(rng.random((6 * WIDTH, 1, 3, 3)) < 0.9, gain, samples.vector(rng, 6 * WIDTH))
    return _task(rng, store, "owning", "trunk", layers)


def _task(rng, store, name, parent, layers, units=None) -> TaskResult:
    units = units or {}
    first, second = units.get("conv1", np.ones(6 * WIDTH, bool)), units.get("conv2", np.ones(4 * WIDTH, bool))
    return TaskResult(
        name=name,
        parent=parent,
        isolation="exact",
        strategy="sample",
        classes=(3, 8),
        unit_masks=units,
        layers=layers,
        norms={"bn1": NormState(samples.vector(rng, 6 * WIDTH, first), samples.vector(rng, 6 * WIDTH, first))},
        biases={"conv2": samples.vector(rng, 4 * WIDTH, second)},
        head=HeadState(rng.integers(-7, 8, (2, 5)).astype(np.int8), samples.vector(rng, 2), samples.vector(rng, 2)),
        ranges={"input": ActivationRange(0.5, 0, False), "relu1": ActivationRange(float(np.float32(0.1)), -3, True)},
        validation={"accuracy": 0.875},
    )


def _int8(result: TaskResult) -> TaskResult:
    """The same with int8 vectors; gains lie far apart, so that they take the ladder."""

    def small(vector):
        return round_vector(vector, "int8")

    norms = {
        name: NormState(small(norm.gain * np.geomspace(1, 0.01, len(norm.gain)).astype(np.float32)), small(-norm.shift))
        for name, norm in result.norms.items()
    }
    head = replace(result.head, scale=small(result.head.scale), bias=small(result.head.bias))
    return replace(
        result,
        layers={name: replace(own, scale=small(own.scale)) for name, own in result.layers.items()},
        norms=norms,
        biases={name: small(bias) for name, bias in result.biases.items()},
        head=head,
        vector_precision="int8",
    )


if __name__ == "__main__":
    write_golden(Path(sys.argv[1]))
