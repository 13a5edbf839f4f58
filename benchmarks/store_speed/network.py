"""A ResNet-18 for 32x32 images as the store sees it: layer shapes and unit groups, no module."""

from __future__ import annotations

import numpy as np

from tsn_toolkit.contracts import GroupMember, LayerRecord, ModelGraph, NormState, UnitGroup

CLASSES = 10
STAGES = 4
BLOCKS = 2
HEAD_GROUP = f"stage{STAGES - 1}"
"""The group whose units the head reads."""


def resnet18_graph(width: int) -> ModelGraph:
    """The graph of a ResNet-18 whose first stage has `width` channels: 64 gives 11.2 million weights, 20 gives 1.1 million."""
    shapes = _shapes(width)
    layers = tuple(LayerRecord(name, "Conv2d" if len(shape) == 4 else "Linear", shape, 1) for name, shape in shapes.items())
    return ModelGraph((), (), layers, _groups(width, shapes), "head", (3, 32, 32), f"resnet18-{width}")


def norms(graph: ModelGraph, unit_masks: dict[str, np.ndarray]) -> dict[str, NormState]:
    """One norm per convolution, storable as it is; entries of dead units are 0."""
    states: dict[str, NormState] = {}
    for group in graph.groups:
        kept = unit_masks.get(group.name, np.ones(group.size, np.bool_)).astype(np.float32)
        states |= {f"{producer}.norm": NormState(kept, kept * np.float32(0.5)) for producer in group.producers}
    return states


def _shapes(width: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {"stem": (width, 3, 3, 3)}
    inputs = width
    for stage in range(STAGES):
        outputs = width << stage
        for block in range(BLOCKS):
            name = f"stage{stage}.{block}"
            shapes[f"{name}.conv1"] = (outputs, inputs, 3, 3)
            shapes[f"{name}.conv2"] = (outputs, outputs, 3, 3)
            if inputs != outputs:
                shapes[f"{name}.shortcut"] = (outputs, inputs, 1, 1)
            inputs = outputs
    return {**shapes, "head": (CLASSES, inputs)}


def _groups(width: int, shapes: dict[str, tuple[int, ...]]) -> tuple[UnitGroup, ...]:
    """Per stage the residual sum, per block the channels between its two convolutions."""
    groups = []
    readers = {f"stage{stage}.{block}.conv1": f"stage{stage}" for stage in range(STAGES) for block in range(1, BLOCKS)}
    readers |= {f"stage{stage}.0.{part}": f"stage{max(stage - 1, 0)}" for stage in range(STAGES) for part in ("conv1", "shortcut")}
    readers["head"] = HEAD_GROUP
    for stage in range(STAGES):
        writers = [f"stage{stage}.{block}.conv2" for block in range(BLOCKS)] + (["stem"] if stage == 0 else [f"stage{stage}.0.shortcut"])
        read_by = [name for name, source in readers.items() if source == f"stage{stage}" and name in shapes]
        groups.append(_group(f"stage{stage}", width << stage, writers, read_by))
        for block in range(BLOCKS):
            name = f"stage{stage}.{block}"
            groups.append(_group(f"{name}.inner", width << stage, [f"{name}.conv1"], [f"{name}.conv2"]))
    return tuple(groups)


def _group(name: str, size: int, writers: list[str], readers: list[str]) -> UnitGroup:
    units = np.arange(size)
    members = [GroupMember(f"{layer}.weight", 0, units) for layer in writers]
    members += [GroupMember(f"{layer}.norm.weight", 0, units) for layer in writers]
    members += [GroupMember(f"{layer}.weight", 1, units) for layer in readers]
    return UnitGroup(name, size, tuple(members), tuple(writers))
