"""Tasks of one lineage by hand: a trunk, a child with slots of its own, its child that leaves slots unused, and one without some channels."""

import numpy as np

from tsn_toolkit.contracts import FrozenLayer
from tsn_toolkit.export.c.fixed_point import fixed_point
from tsn_toolkit.export.c.operations import Convolution, IntegerProgram, Tensor, Window
from tsn_toolkit.export.c.share import OwnerView, TaskSlots

SHAPES = {"conv1": (16, 3, 3, 3), "conv2": (24, 16, 3, 3), "head": (5, 24, 1, 1)}
KEPT = {"conv1": np.array([0, 1, 4, 5, 7, 8, 9, 12, 14, 15]), "conv2": np.arange(24)[1::2]}
"""Channels that `narrow` kept."""


def network(q: dict[str, np.ndarray], seed: int) -> IntegerProgram:
    """conv1 - conv2 - head over an image of 6 x 6 with random biases and factors, the head at every position."""
    random = np.random.default_rng(seed)
    tensor = source = Tensor("input", (3, 6, 6), 0.02, True)
    operations = []
    for layer, codes in q.items():
        padding = (1, 1) if codes.shape[2] == 3 else (0, 0)
        target = Tensor(layer, (len(codes), 6, 6), 0.03, layer == "head")
        spread = codes.reshape(len(codes), -1).astype(float).std() * np.sqrt(codes[0].size) * 25
        factors = fixed_point(random.uniform(20, 40, len(codes)) / spread, where=layer)
        bias = random.integers(-900, 900, len(codes)).astype(np.int32)
        operations.append(Convolution(layer, tensor, target, codes, bias, factors, Window(codes.shape[2:], padding=padding), 1))
        tensor = target
    return IntegerProgram(tuple(operations), source, tensor)


def family() -> tuple[dict[str, TaskSlots], dict[str, OwnerView]]:
    """(tasks, owners): `child` of the trunk, `grandchild` of `child`, `narrow` of the trunk; heads are each task's own."""
    random = np.random.default_rng(7)
    trunk = {layer: random.integers(-127, 128, shape).astype(np.int8) for layer, shape in SHAPES.items() if layer != "head"}
    child = {layer: _changed(q, 0.05, random) for layer, q in trunk.items()}
    grandchild = {layer: _changed(q, 0.04, random) for layer, q in child.items()}
    used = {layer: np.where(random.random(q.shape) < 0.7, q, 0).astype(np.int8) for layer, q in grandchild.items()}
    narrow = {"conv1": trunk["conv1"][KEPT["conv1"]], "conv2": trunk["conv2"][KEPT["conv2"]][:, KEPT["conv1"]]}
    every = {layer: np.arange(q.size).reshape(q.shape) for layer, q in trunk.items()}
    kept = {"conv1": every["conv1"][KEPT["conv1"]], "conv2": every["conv2"][KEPT["conv2"]][:, KEPT["conv1"]]}
    tasks = {}
    for seed, (name, q, slots) in enumerate([("child", child, every), ("grandchild", used, every), ("narrow", narrow, kept)]):
        head = random.integers(-127, 128, (5, len(q["conv2"]), 1, 1)).astype(np.int8)
        tasks[name] = TaskSlots(network({**q, "head": head}, seed), slots)
    owners = {
        "trunk": OwnerView("", {layer: _full(q) for layer, q in trunk.items()}),
        "child": OwnerView("trunk", {layer: _full(q) for layer, q in child.items()}),
        "grandchild": OwnerView("child", {layer: _full(q) for layer, q in grandchild.items()}),
        "narrow": OwnerView("trunk", {layer: _full(q) for layer, q in trunk.items()}),
    }
    return tasks, owners


def _changed(q: np.ndarray, fraction: float, random: np.random.Generator) -> np.ndarray:
    book = random.choice(np.arange(-127, 128), 15, replace=False)
    return np.where(random.random(q.shape) < fraction, random.choice(book, q.shape), q).astype(np.int8)


def _full(q: np.ndarray) -> FrozenLayer:
    return FrozenLayer(q, np.ones(q.shape, bool), None)
