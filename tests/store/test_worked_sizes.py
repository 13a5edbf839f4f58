"""Sizes worked out on paper for networks of the literature, as oracles for what the store writes.

Weights that a mask covers: a permuted-MNIST MLP 784-100-100; the CIFAR AlexNet of WSN and TinySubNets; the TinyImageNet net of WSN; ResNet-18 with 64
channels (block convolutions).
"""

import math

import numpy as np
import pytest

from tsn_toolkit.contracts import HeadState, LayerCodes, LayerRecord, ModelGraph, TaskResult, TrunkResult
from tsn_toolkit.store.inspect import inspect_store
from tsn_toolkit.store.known_slots import KnownSlots
from tsn_toolkit.store.mask_forms import Layout
from tsn_toolkit.store.masks import encode_mask
from tsn_toolkit.store.store import Store

PRUNED, REUSE, OWN = range(3)

NETWORKS = {
    # name: layer shapes, masked weights, masked weights of each layer
    "mnist mlp": ([(100, 784), (100, 100)], 88_400, [78_400, 10_000]),
    "cifar alexnet": (
        [(64, 3, 4, 4), (128, 64, 3, 3), (256, 128, 2, 2), (2048, 1024), (2048, 2048)],
        6_499_328,
        [3_072, 73_728, 131_072, 2_097_152, 4_194_304],
    ),
    "tiny net": (
        [(160, 3, 3, 3), *[(160, 160, 3, 3)] * 3, (640, 2560), (640, 640)],
        2_743_520,
        [4_320, 230_400, 230_400, 230_400, 1_638_400, 409_600],
    ),
}


def entropy(p):
    return 0.0 if p in (0, 1) else -p * math.log2(p) - (1 - p) * math.log2(1 - p)


def graph_of(shapes, classes):
    layers = tuple(LayerRecord(f"layer{i}", "Conv2d" if len(shape) == 4 else "Linear", shape, 1) for i, shape in enumerate(shapes))
    head = LayerRecord("head", "Linear", (classes, shapes[-1][0]), 1)
    return ModelGraph((), (), (*layers, head), (), "head", shapes[0][1:], "worked")


@pytest.mark.parametrize("name", NETWORKS)
def test_slot_counts(name, tmp_path):
    shapes, total, by_layer = NETWORKS[name]
    store = Store.create(tmp_path / "store", trunk=TrunkResult("seed", 0, {}, {}, {}, None), graph=graph_of(shapes, 10), recipe={})
    assert [layer.size for layer in store.architecture.layers] == by_layer and store.architecture.size == total


def random_mask(count, density, seed=0):
    rng = np.random.default_rng(seed)
    states = np.where(rng.random(count) < density, OWN, PRUNED).astype(np.uint8)
    return states, KnownSlots(np.zeros(count, bool), np.zeros(count, np.uint8), count)


# Percent of a dense fp32 model for ten independent masks: 10 * H(c) / 32.
@pytest.mark.parametrize(("density", "percent"), [(0.5, 31.25), (0.3, 27.54), (0.1, 14.66), (0.05, 8.95), (0.03, 6.07)])
def test_independent_masks_cost_their_entropy(density, percent):
    count = 2_097_152  # the largest layer but one of the AlexNet
    form, data = encode_mask(*random_mask(count, density), "element", refines=False)
    assert 100 * 10 * len(data) * 8 / (32 * count) == pytest.approx(percent, rel=3e-3)
    assert form.layout == (Layout.BITMAP if density == 0.5 else Layout.SLOTS)


def test_half_dense_masks_of_ten_tasks_take_a_bit_per_weight():
    # AlexNet, ten tasks at density 0.5: masks 10 bit * W = 8.12 MB, incompressible.
    _, total, by_layer = NETWORKS["cifar alexnet"]
    sizes = [len(encode_mask(*random_mask(count, 0.5, seed), "element", refines=False)[1]) for seed, count in enumerate(by_layer[:4])]
    assert sum(sizes) == pytest.approx(sum(by_layer[:4]) / 8, rel=2e-3)
    assert 10 * total / 8 == pytest.approx(8.12e6, rel=1e-3)
    # TinyNet, 40 tasks: raw masks of 13.7 MB against 11.0 MB for one dense fp32 network.
    assert 40 * NETWORKS["tiny net"][1] / 8 == pytest.approx(13.7e6, rel=2e-3) and 4 * NETWORKS["tiny net"][1] == pytest.approx(11.0e6, rel=3e-3)


def test_a_list_of_positions_pays_below_one_in_log2_of_the_slots():
    # A list costs c * log2(W) bits per slot: worse than a bitmap from c = 1 / log2(W) on, and than the entropy unless there are very few.
    count = 1 << 16
    for marked, layout in ((1, Layout.POSITIONS), (2, Layout.POSITIONS), (count // 16 + 64, Layout.SLOTS)):
        states = np.zeros(count, np.uint8)
        states[np.random.default_rng(0).permutation(count)[:marked]] = OWN
        form, data = encode_mask(states, random_mask(count, 0)[1], "element", refines=False)
        assert form.layout == layout
        assert len(data) <= 3 + math.ceil(marked * 16 / 8) and len(data) <= 3 + count / 8


@pytest.mark.parametrize(("kept", "fresh"), [(0.7, 0.03), (0.9, 0.01), (0.1, 0.1)])
def test_conditional_coding_costs_what_is_new(kept, fresh):
    # H(m_t | M) with reuse rate r among the U used positions and rate q elsewhere: U * H(r) + (1 - U) * H(q).
    count, rng = 1_000_000, np.random.default_rng(0)
    before = rng.random(count) < 0.1
    after = np.where(before, rng.random(count) < kept, rng.random(count) < fresh)
    states = np.where(after, np.where(before, REUSE, OWN), PRUNED).astype(np.uint8)
    known = KnownSlots(before, before.astype(np.uint8) * 0x80, 1000)
    expected = 0.1 * entropy(kept) + 0.9 * entropy(fresh)
    assert 8 * len(encode_mask(states, known, "element", refines=False)[1]) / count == pytest.approx(expected, rel=0.01)


def test_blocks_and_choices_cost_their_count():
    # 2:4 has 6 choices for 4 slots, log2(6) / 4 = 0.646 bit per slot; blocks of 16 at density 0.1 cost H(0.1) / 16.
    rng = np.random.default_rng(0)
    known = KnownSlots(np.zeros(400_000, bool), np.zeros(400_000, np.uint8), 400)
    choices = (rng.random((100_000, 4)).argsort(axis=1) < 2).reshape(-1)
    blocks = np.repeat(rng.random(25_000) < 0.1, 16)
    for marked, granularity, bits in ((choices, "2:4", math.log2(6) / 4), (blocks, "block(16)", entropy(0.1) / 16)):
        data = encode_mask(np.where(marked, OWN, PRUNED).astype(np.uint8), known, granularity, refines=False)[1]
        assert 8 * len(data) / 400_000 == pytest.approx(bits, rel=0.02)


def test_an_mlp_with_ten_heads(tmp_path):
    """Permuted MNIST, four of its ten tasks: values of 4 bits at owned slots, masks at their entropy, a head of 1,000 weights each."""
    shapes, total, _ = NETWORKS["mnist mlp"]
    graph, rng = graph_of(shapes, 10), np.random.default_rng(0)
    store = Store.create(tmp_path / "store", trunk=TrunkResult("seed", 0, {}, {}, {}, None), graph=graph, recipe={})
    density, union = 0.3, 0.0
    for index in range(4):
        layers = {}
        for layer, view in store.frozen_view(f"t{index - 1}" if index else "trunk").items():
            used = rng.random(view.q.shape) < density
            states = np.where(used, np.where(view.present, REUSE, OWN), PRUNED).astype(np.uint8)
            codes = rng.integers(0, 16, int((states == OWN).sum())).astype(np.uint8)
            scale = np.ones(len(states), np.float32)
            layers[layer] = LayerCodes(states, codes, np.arange(-64, 64, 8).astype(np.int8), 4, scale)
        head = HeadState(rng.integers(-127, 128, (10, 100)).astype(np.int8), np.ones(10, np.float32), np.zeros(10, np.float32))
        parent = f"t{index - 1}" if index else "trunk"
        store.commit(TaskResult(f"t{index}", parent, "exact", "paper", tuple(range(10)), {}, layers, {}, {}, head, {}), {})
        union = 1 - (1 - union) * (1 - density)
        report = inspect_store(store)["parts"][2 + index]["breakdown"]
        owned = union - (1 - (1 - density) ** index)
        assert report["values"] == pytest.approx(4 * owned * total / 8, rel=0.03)
        assert report["masks"] == pytest.approx(entropy(density) * total / 8, rel=0.02)
        assert 1000 <= report["heads"] <= 1000 + 2 + 2 * 21
    assert inspect_store(store)["entropy_bytes"] == pytest.approx((4 * union + 4 * entropy(density)) * total / 8, rel=0.02)
