"""Compiled code reads what the arrays read, or gives up and leaves it to them."""

import os
import shutil
import weakref
from dataclasses import replace

import mixed_store
import numpy as np
import pytest
import store_samples as samples
from golden_store import FOLDER
from hypothesis import given, settings
from hypothesis import strategies as st
from test_integrity import rehash
from two_readers import compiled_layers, readers_agree

from tsn_toolkit.contracts import GroupMember, HeadState, LayerCodes, LayerPlanes, LayerRecord, ModelGraph, TaskResult, TrunkResult, UnitGroup
from tsn_toolkit.errors import StoreError
from tsn_toolkit.numerics.vectors import round_vector
from tsn_toolkit.store import compiled_chain
from tsn_toolkit.store.compiled_chain import compiled_decoder
from tsn_toolkit.store.integrity import verify_store
from tsn_toolkit.store.part import read_part, write_part
from tsn_toolkit.store.store import Store

PRUNED, REUSE, OWN, REFINE = range(4)

compiled = pytest.mark.skipif(compiled_decoder() is None, reason="the package was installed without a C compiler")


@pytest.mark.skipif("CI" not in os.environ or shutil.which("cc") is None, reason="only where an installation must have compiled it")
def test_an_installation_with_a_compiler_has_it():
    assert compiled_decoder() is not None


@compiled
@pytest.mark.parametrize("name", sorted(path.name for path in FOLDER.iterdir() if (path / "manifest.json").is_file()))
def test_golden_stores(name):
    store = Store.open(FOLDER / name)
    assert all(readers_agree(store, entry.name) for entry in store.entries)


@compiled
@pytest.mark.parametrize("make", [mixed_store.make_mixed_store, mixed_store.make_formed_store])
def test_every_encoding_and_every_layout_of_masks(tmp_path, make):
    store = make(tmp_path / "store")
    assert all(readers_agree(store, entry.name) for entry in store.entries)


def random_graph(rng: np.random.Generator) -> ModelGraph:
    """conv (3 or 5 inputs to a channel's side) -> fc -> fc2 -> head with units of both inner borders."""
    channels, units, inputs, side = (int(rng.integers(low, high)) for low, high in ((1, 9), (1, 14), (1, 5), (1, 4)))
    shapes = {"conv": (channels, inputs, side, side), "fc": (units, 4 * channels), "fc2": (7, units), "head": (2, 7)}
    layers = tuple(LayerRecord(name, "Conv2d" if len(shape) == 4 else "Linear", shape, 1) for name, shape in shapes.items())
    inner = (GroupMember("conv.weight", 0, np.arange(channels)), GroupMember("fc.weight", 1, np.repeat(np.arange(channels), 4)))
    outer = (GroupMember("fc.weight", 0, np.arange(units)), GroupMember("fc2.weight", 1, np.arange(units)))
    return ModelGraph((), (), layers, (UnitGroup("a", channels, inner, ("conv",)), UnitGroup("b", units, outer, ("fc",))), "head", (9,), "random")


def box(shape: tuple[int, ...], rows: np.ndarray | None, columns: np.ndarray | None) -> np.ndarray:
    kept = np.ones(shape, bool)
    if rows is not None:
        kept &= rows.reshape(-1, *[1] * (len(shape) - 1))
    return kept if columns is None else kept & columns.reshape(1, -1, *[1] * (len(shape) - 2))


def random_marks(rng: np.random.Generator, shape: tuple[int, ...], granularity: str) -> np.ndarray:
    """Marks of kept slots, rows of one output each; those of a pattern fit it."""
    rows, length = shape[0], int(np.prod(shape[1:]))
    if granularity.startswith("block"):
        size = int(granularity[6:-1])
        return np.repeat(rng.random((rows, -(-length // size))) < rng.random(), size, axis=1)[:, :length].reshape(shape)
    if ":" in granularity:
        keep, group = map(int, granularity.split(":"))
        marks = np.zeros((rows, length), bool)
        for first in range(0, length, group):
            part = marks[:, first : first + group]
            part[:] = rng.random(part.shape).argsort(1).argsort(1) < keep
        return marks.reshape(shape)
    return rng.random(shape) < rng.choice([0.0, 0.03, 0.4, 0.9, 1.0])


def random_layer(rng: np.random.Generator, kept: np.ndarray, present: np.ndarray, first: bool) -> LayerCodes | LayerPlanes | None:
    """A layer of any encoding; None is `shared`."""
    kind = rng.choice(["codes", "planes", "codes" if first else "shared"], p=[0.7, 0.15, 0.15])
    if kind == "shared":
        return None
    if kind == "planes":
        gain = rng.integers(0, 128, len(kept)) * kept.reshape(len(kept), -1).any(1)
        return LayerPlanes((rng.random(kept.shape) < 0.5) & kept, gain.astype(np.int8), samples.vector(rng, len(kept)))
    granularity = str(rng.choice(["element", "unit", "block(2)", "block(4)", "block(50)", "2:4", "1:3", "3:3"]))
    rows, columns = (kept.any(tuple(axis for axis in range(kept.ndim) if axis != dim)) for dim in (0, 1))
    marks = np.zeros(kept.shape, bool)
    marks[np.ix_(rows, columns)] = random_marks(rng, (int(rows.sum()), int(columns.sum()), *kept.shape[2:]), granularity)
    refine_bits = int(rng.choice([0, 0, 1, 3]))
    share = rng.choice([0.0, 0.5, 1.0])
    inherited = np.where(rng.random(kept.shape) < share, REUSE, np.where((rng.random(kept.shape) < 0.5) & (refine_bits > 0), REFINE, OWN))
    states = np.where(marks, np.where(present, inherited, OWN), PRUNED)
    if rng.random() < 0.2:  # marks of the slots owned: all others are used as the parent left them
        states = np.where(kept & present & (states == PRUNED), REUSE, states)
    return samples.own_layer(rng, states, int(rng.integers(1, 9)), granularity, refine_bits)


def random_store(path, seed: int) -> Store:
    """A chain of up to five tasks over a seed or a checkpoint."""
    rng = np.random.default_rng(seed)
    graph = random_graph(rng)
    coded = [layer for layer in graph.layers if layer.name != "head"]
    trunk = TrunkResult("seed", 0, {}, {}, {}, None, 4096)
    if rng.random() < 0.5:
        layers = {layer.name: samples.own_layer(rng, np.full(layer.shape, OWN), int(rng.integers(1, 9))) for layer in coded}
        trunk = TrunkResult("checkpoint", 0, layers, {}, {}, None, 4096)
    store = Store.create(path, trunk=trunk, graph=graph, recipe={})
    for index in range(int(rng.integers(1, 6))):
        parent = f"t{index - 1}" if index else "trunk"
        masks = {}
        for group in graph.groups:
            if rng.random() < 0.5:
                masks[group.name] = rng.random(group.size) < 0.6
                masks[group.name][rng.integers(group.size)] = True
        a, b = masks.get("a"), masks.get("b")
        kept = {"conv": (a, None), "fc": (b, None if a is None else np.repeat(a, 4)), "fc2": (None, b)}
        precision, layers = str(rng.choice(["half", "int8"])), {}
        for layer in coded:
            view = store.frozen_view(parent)[layer.name]
            made = random_layer(rng, box(layer.shape, *kept[layer.name]), view.present, view.scale is None)
            if made is not None:
                layers[layer.name] = replace(made, scale=round_vector(made.scale, precision))
        head = HeadState(np.zeros((2, 7), np.int8), np.ones(2, np.float32), np.zeros(2, np.float32))
        result = TaskResult(f"t{index}", parent, "exact", "sample", (0, 1), masks, layers, {}, {}, head, {}, vector_precision=precision)
        store.commit(result, {})
    return store


def commit_one(path, graph: ModelGraph, masks: dict[str, np.ndarray], layers: dict[str, LayerCodes | LayerPlanes]) -> Store:
    """A store over a seed with one task."""
    store = Store.create(path, trunk=samples.SEED_TRUNK, graph=graph, recipe={})
    head = HeadState(np.zeros((2, 7), np.int8), np.ones(2, np.float32), np.zeros(2, np.float32))
    store.commit(TaskResult("t", "trunk", "exact", "sample", (0, 1), masks, layers, {}, {}, head, {}), {})
    return store


@compiled
def test_a_model_that_is_a_head_alone(tmp_path):
    store = commit_one(tmp_path / "store", ModelGraph((), (), (LayerRecord("head", "Linear", (2, 7), 1),), (), "head", (7,), "head"), {}, {})
    assert readers_agree(store, "t") and store.dense_weights("t") == {} and list(verify_store(store)) == ["t"]


@compiled
@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("plane", [False, True])
def test_a_layer_that_keeps_no_slot(tmp_path, dim, plane):
    """Two groups on one dimension, of which each drops what the other keeps."""
    shape, half = (4, 4, 3), np.arange(4) < 2
    groups = tuple(UnitGroup(name, 4, (GroupMember("conv.weight", dim, np.arange(4)),), ("conv",)) for name in "ab")
    layers = (LayerRecord("conv", "Conv1d", shape, 1), LayerRecord("head", "Linear", (2, 7), 1))
    none, scale = np.zeros(shape, np.uint8), np.zeros(4, np.float32)
    codes = LayerCodes(none, none[0, 0, :0], np.array([-1, 1], np.int8), 1, scale)
    layer = LayerPlanes(none.astype(bool), np.zeros(4, np.int8), scale) if plane else codes
    graph = ModelGraph((), (), layers, groups, "head", (7,), "disjoint")
    store = commit_one(tmp_path / "store", graph, {"a": half, "b": ~half}, {"conv": layer})
    assert readers_agree(store, "t") and not store.weights("t").q["conv"].any()


@compiled
def test_its_memory_is_free_before_the_arrays_begin(tmp_path, monkeypatch):
    store = mixed_store.make_mixed_store(tmp_path / "store", tasks="a")
    states = []
    new_state = compiled_chain._new_state

    def remembered(*arguments):
        state = new_state(*arguments)
        states.append(weakref.ref(state.q))
        return state

    def layers(owner):
        assert [state() for state in states] == [None]
        return iter(())

    monkeypatch.setattr(compiled_chain, "_new_state", remembered)
    monkeypatch.setattr(compiled_chain._Owner, "finish", lambda owner: (_ for _ in ()).throw(ValueError("damaged")))
    monkeypatch.setattr(store, "layers", layers)
    store.dense_weights("a")
    assert states


@compiled
@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_random_chains(tmp_path_factory, seed):
    store = random_store(tmp_path_factory.mktemp("random") / "store", seed)
    assert all(readers_agree(store, entry.name) for entry in store.entries)


@compiled
@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_damaged_layers(tmp_path_factory, seed):
    """Bytes of layers are changed, every hash is right again: compiled code never reads what the arrays refuse, nor anything else."""
    store, rng = random_store(tmp_path_factory.mktemp("damaged") / "store", seed), np.random.default_rng(seed)
    for entry in (store.trunk_entry, *store.entries):
        pristine = (store.path / entry.path).read_bytes()
        metadata, blobs = read_part(pristine)
        for _ in range(6):
            damaged = {name: damage(rng, data) if name in BLOBS else data for name, data in blobs.items()}
            rehash(store.path, entry.path, write_part(metadata, damaged))
            opened = Store.open(store.path)
            for other in opened.entries:
                readers_agree(opened, other.name)  # AssertionError where they do not
        rehash(store.path, entry.path, pristine)
    assert all(readers_agree(Store.open(store.path), entry.name) for entry in store.entries)


BLOBS = ("layers", "masks", "values", "codebooks", "scales")


def damage(rng: np.random.Generator, data: bytes) -> bytes:
    """Up to two bytes changed, or the last one cut off; often nothing."""
    changed = bytearray(data)
    for _ in range(int(rng.choice([0, 0, 1, 2])) if data else 0):
        changed[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
    return bytes(changed[:-1] if rng.random() < 0.05 else changed)


@compiled
def test_what_it_gives_up_the_arrays_name(tmp_path):
    """A codebook does not ascend; every hash is right."""
    store = mixed_store.make_mixed_store(tmp_path / "store", tasks="a")
    path = store.entries[0].path
    metadata, blobs = read_part((store.path / path).read_bytes())
    rehash(store.path, path, write_part(metadata, {**blobs, "codebooks": bytes([0x7F, *blobs["codebooks"][1:]])}))
    damaged = Store.open(store.path)
    assert compiled_layers(damaged, "a") is None
    with pytest.raises(StoreError, match=f"{path}` is damaged: a codebook is not ascending"):
        damaged.weights("a")


def test_without_it_the_arrays_read(tmp_path, monkeypatch):
    store = mixed_store.make_mixed_store(tmp_path / "store")
    before = {entry.name: (store.codes_hash(entry.name), store.dense_weights(entry.name)) for entry in store.entries}
    monkeypatch.setattr(compiled_chain, "compiled_decoder", lambda: None)
    for name, (codes, dense) in before.items():
        assert compiled_layers(store, name) is None and store.codes_hash(name) == codes
        for layer, weights in store.dense_weights(name).items():
            assert weights.tobytes() == dense[layer].tobytes()


@compiled
def test_verifying_a_store_compares_both(tmp_path, monkeypatch):
    store = mixed_store.make_mixed_store(tmp_path / "store")
    assert list(verify_store(store)) == [entry.name for entry in store.entries]
    monkeypatch.setattr(compiled_chain.LayerAnswer, "q", property(lambda answer: np.zeros(answer.layer.shape, np.int8)))
    with pytest.raises(StoreError, match="task `a`: compiled code reads layer `fc1` otherwise than numpy.*TSN_TOOLKIT_PURE=1"):
        verify_store(store)
