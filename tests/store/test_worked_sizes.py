"""Sizes worked out on paper for networks of the literature, as oracles for what the store writes.

Weights that a mask covers, counted from modules: a permuted-MNIST MLP 784-100-100; the CIFAR AlexNet of WSN and TinySubNets; the TinyImageNet net of
WSN; ResNet-18 with 20 channels (GEM, ExSSNeT) and with 64 (SparCL), without norms.
"""

import math
from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn

from tsn_toolkit.bench.denominators import _write_dense
from tsn_toolkit.contracts import HeadState, LayerCodes, LayerRecord, ModelGraph, TaskResult, TrunkResult
from tsn_toolkit.files import folder_bytes
from tsn_toolkit.graph.trace import trace
from tsn_toolkit.numerics.bits import pack_bits
from tsn_toolkit.store.inspect import inspect_store
from tsn_toolkit.store.known_slots import KnownSlots
from tsn_toolkit.store.mask_forms import Layout
from tsn_toolkit.store.masks import encode_mask
from tsn_toolkit.store.store import Store

PRUNED, REUSE, OWN = range(3)


class Net(nn.Sequential):
    """Layers in order, then a head `head` without bias."""

    def __init__(self, head, **layers):
        super().__init__(OrderedDict(**layers, head=nn.Linear(*head, bias=False)))


def conv(inputs, outputs, kernel, **options):
    return nn.Conv2d(inputs, outputs, kernel, bias=False, **options)


def linear(inputs, outputs):
    return nn.Linear(inputs, outputs, bias=False)


def mnist_mlp():
    return Net((100, 10), fc1=linear(784, 100), relu1=nn.ReLU(), fc2=linear(100, 100), relu2=nn.ReLU())


def cifar_alexnet():
    layers = {}
    for index, (inputs, outputs, kernel) in enumerate([(3, 64, 4), (64, 128, 3), (128, 256, 2)]):
        layers |= {f"conv{index}": conv(inputs, outputs, kernel), f"relu{index}": nn.ReLU(), f"pool{index}": nn.MaxPool2d(2)}
    return Net((2048, 10), **layers, flatten=nn.Flatten(), fc1=linear(1024, 2048), relu3=nn.ReLU(), fc2=linear(2048, 2048), relu4=nn.ReLU())


def tiny_net():
    layers = {f"conv{index}": conv(160 if index else 3, 160, 3, stride=2, padding=1) for index in range(4)}
    return Net((640, 5), **layers, flatten=nn.Flatten(), fc1=linear(2560, 640), relu=nn.ReLU(), fc2=linear(640, 640))


class Block(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1, self.conv2 = conv(inputs, outputs, 3, stride=stride, padding=1), conv(outputs, outputs, 3, padding=1)
        self.shortcut = conv(inputs, outputs, 1, stride=stride) if inputs != outputs else nn.Identity()

    def forward(self, x):
        return torch.relu(self.conv2(torch.relu(self.conv1(x))) + self.shortcut(x))


def resnet18(width):
    widths = [width, width, width, 2 * width, 2 * width, 4 * width, 4 * width, 8 * width, 8 * width]
    pairs = zip(widths, widths[1:], strict=False)
    blocks = {f"block{index}": Block(a, b, 1 if a == b else 2) for index, (a, b) in enumerate(pairs)}
    return Net((8 * width, 5), stem=conv(3, width, 3, padding=1), **blocks, pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten())


NETWORKS = {
    # name: module, shape of an example, masked weights of each layer, tasks, weights of all heads
    "mnist mlp": (mnist_mlp, (784,), [78_400, 10_000], 10, 10_000),
    "cifar alexnet": (cifar_alexnet, (3, 32, 32), [3_072, 73_728, 131_072, 2_097_152, 4_194_304], 10, 204_800),
    "tiny net": (tiny_net, (3, 64, 64), [4_320, 230_400, 230_400, 230_400, 1_638_400, 409_600], 40, 128_000),
}
SIZES = {"mnist mlp": 88_400, "cifar alexnet": 6_499_328, "tiny net": 2_743_520}
"""Masked weights of all layers."""
RESNETS = {20: (540, 1_072_800, 16_800), 64: (1_728, 10_985_472, 172_032)}
"""Width -> weights of the stem, of the 3x3 convolutions of the blocks, of the shortcuts."""


def entropy(p):
    return 0.0 if p in (0, 1) else -p * math.log2(p) - (1 - p) * math.log2(1 - p)


def graph_of(shapes, classes):
    layers = tuple(LayerRecord(f"layer{i}", "Conv2d" if len(shape) == 4 else "Linear", shape, 1) for i, shape in enumerate(shapes))
    head = LayerRecord("head", "Linear", (classes, shapes[-1][0]), 1)
    return ModelGraph((), (), (*layers, head), (), "head", shapes[0][1:], "worked")


def store_of(path, module, example):
    graph = trace(module, torch.zeros(1, *example))
    return graph, Store.create(path, trunk=TrunkResult("seed", 0, {}, {}, {}, None), graph=graph, recipe={})


@pytest.mark.parametrize("name", NETWORKS)
def test_slot_counts(name, tmp_path):
    make, example, by_layer, tasks, heads = NETWORKS[name]
    architecture = store_of(tmp_path / "store", make(), example)[1].architecture
    assert [layer.size for layer in architecture.layers] == by_layer and architecture.size == SIZES[name]
    assert tasks * make().head.out_features * architecture.head_features == heads


@pytest.mark.parametrize("width", RESNETS)
def test_slot_counts_of_resnets(width, tmp_path):
    architecture = store_of(tmp_path / "store", resnet18(width), (3, 32, 32))[1].architecture
    stem, blocks, shortcuts = RESNETS[width]
    sizes = {layer.name: layer.size for layer in architecture.layers}
    assert sizes["stem"] == stem and sum(size for name, size in sizes.items() if name.endswith("shortcut")) == shortcuts
    assert architecture.size == stem + blocks + shortcuts
    assert width != 20 or architecture.size == 1_090_140


def test_hundred_masks_of_a_small_resnet():
    """1,090,140 weights, density 0.1: bits 13.6 MB, entropy 6.4 MB, lists of positions of 21 bits 28.6 MB."""
    states, known = random_mask(1_090_140, 0.1)
    form, data = encode_mask(states, known, "element", refines=False)
    assert form.layout == Layout.SLOTS and 100 * len(data) == pytest.approx(6.4e6, rel=5e-3)
    places = np.flatnonzero(states)
    assert 100 * len(pack_bits(places & 0xFFFF, 16) + pack_bits(places >> 16, 5)) == pytest.approx(28.6e6, rel=5e-3)
    form, data = encode_mask(*random_mask(1_090_140, 0.5), "element", refines=False)
    assert form.layout == Layout.BITMAP and 100 * len(data) == pytest.approx(13.6e6, rel=5e-3)


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


def test_alexnet_of_ten_half_dense_tasks(tmp_path):
    """Values 4 bit * .999 W = 3.25 MB, masks 10 bit * W = 8.12 MB, with float32 heads of 0.82 MB 12.2 MB: 45.5 % of one network, 4.7 % of ten.

    The store's heads are int8, a quarter of that, and its codebook entries too.
    """
    make, example, _, tasks, heads = NETWORKS["cifar alexnet"]
    graph, store = store_of(tmp_path / "store", make(), example)
    rng, name = np.random.default_rng(0), "trunk"
    for index in range(tasks):
        grow(store, f"t{index}", name, 0.5, rng)
        name = f"t{index}"
    sizes = [store.part(entry.name).part.sizes_bytes for entry in store.entries]
    sums = {key: sum(part[key] for part in sizes) for key in ("values", "masks", "codebooks", "head")}
    assert sums["values"] == pytest.approx(3.25e6, rel=2e-3) and sums["masks"] == pytest.approx(8.12e6, rel=2e-3)
    assert sums["codebooks"] == 16 * 5 * tasks and sums["head"] == pytest.approx(heads, rel=0.01)
    total = folder_bytes(store.path) + 3 * heads
    assert total == pytest.approx(12.2e6, rel=6e-3)
    one = _write_dense(make(), graph.head, [10] * tasks, tmp_path / "dense")
    ten = tasks * _write_dense(make(), graph.head, [10], tmp_path / "dense")
    assert one == pytest.approx(26.8e6, rel=1e-3) and ten == pytest.approx(260.8e6, rel=1e-3)
    assert total / one == pytest.approx(0.455, rel=5e-3) and total / ten == pytest.approx(0.047, rel=0.01)


def test_raw_masks_of_forty_tasks_exceed_the_network(tmp_path):
    make, example, _, tasks, _ = NETWORKS["tiny net"]
    form, data = encode_mask(*random_mask(SIZES["tiny net"], 0.5), "element", refines=False)
    assert form.layout == Layout.BITMAP and tasks * len(data) == pytest.approx(13.7e6, rel=2e-3)
    dense = _write_dense(make(), "head", [], tmp_path / "dense")
    assert dense == pytest.approx(11.0e6, rel=3e-3) and dense < tasks * len(data)


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


def grow(store, name, parent, density, rng):
    """A task that uses random slots: the parent's where they are owned, else its own with codes of 4 bits."""
    layers = {}
    for layer, view in store.frozen_view(parent).items():
        used = rng.random(view.q.shape, np.float32) < density
        states = np.where(used, np.where(view.present, REUSE, OWN), PRUNED).astype(np.uint8)
        codes = rng.integers(0, 16, int((states == OWN).sum())).astype(np.uint8)
        layers[layer] = LayerCodes(states, codes, np.arange(-64, 64, 8).astype(np.int8), 4, np.ones(len(states), np.float32))
    codes = rng.integers(-127, 128, (10, store.architecture.head_features)).astype(np.int8)
    head = HeadState(codes, np.ones(10, np.float32), np.zeros(10, np.float32))
    store.commit(TaskResult(name, parent, "exact", "paper", tuple(range(10)), {}, layers, {}, {}, head, {}), {})


def test_an_mlp_with_ten_heads(tmp_path):
    """Permuted MNIST, four of its ten tasks: values of 4 bits at owned slots, masks at their entropy, a head of 1,000 weights each."""
    make, example, by_layer, _, _ = NETWORKS["mnist mlp"]
    store, rng, total = store_of(tmp_path / "store", make(), example)[1], np.random.default_rng(0), sum(by_layer)
    density, union = 0.3, 0.0
    for index in range(4):
        grow(store, f"t{index}", f"t{index - 1}" if index else "trunk", density, rng)
        union = 1 - (1 - union) * (1 - density)
        report = inspect_store(store)["parts"][2 + index]["breakdown"]
        owned = union - (1 - (1 - density) ** index)
        assert report["values"] == pytest.approx(4 * owned * total / 8, rel=0.03)
        assert report["masks"] == pytest.approx(entropy(density) * total / 8, rel=0.02)
        assert 1000 <= report["heads"] <= 1000 + 2 + 2 * 21
    assert inspect_store(store)["entropy_bytes"] == pytest.approx((4 * union + 4 * entropy(density)) * total / 8, rel=0.02)
