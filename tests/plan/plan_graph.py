"""A graph by hand for the plan tests: conv a -> conv b (+ shortcut) -> head, and one frozen group."""

import numpy as np

from tsn_toolkit.contracts import GroupMember, LayerRecord, ModelGraph, NodeRecord, UnitGroup

SHAPES = {"a": (8, 3, 3, 3), "b": (16, 8, 1, 1), "c": (4, 16), "head": (10, 4)}
POSITIONS = {"a": 64, "b": 64, "c": 1, "head": 1}


def hand_graph():
    """a: 13,824 MACs, b: 8,192, c: 64, head: 40; groups a (8), b (16), c (4, frozen)."""
    layers = tuple(LayerRecord(name, "Conv2d", shape, POSITIONS[name] * int(np.prod(shape))) for name, shape in SHAPES.items())
    nodes = tuple(NodeRecord(layer.name, "conv2d", layer.name, ((1, 1),), "float32", layer.macs, 0, 0) for layer in layers)
    groups = (
        UnitGroup("a", 8, (GroupMember("a.weight", 0, np.arange(8)), GroupMember("b.weight", 1, np.arange(8))), ("a",)),
        UnitGroup("b", 16, (GroupMember("b.weight", 0, np.arange(16)), GroupMember("c.weight", 1, np.arange(16))), ("b",)),
        UnitGroup("c", 4, (GroupMember("c.weight", 0, np.arange(4)), GroupMember("head.weight", 1, np.arange(4))), ("c",), "it is frozen [x.py:1]"),
    )
    return ModelGraph(nodes, (), layers, groups, "head", (3, 8, 8), "ab" * 32)
