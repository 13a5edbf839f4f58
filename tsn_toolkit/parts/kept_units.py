"""Which units of a full module a smaller one has, and the way back from its numbers to those of the full one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tsn_toolkit.contracts import LayerRecord, ModelGraph
from tsn_toolkit.graph.shrink import shrink
from tsn_toolkit.parts.slots import full_sizes


@dataclass(frozen=True)
class KeptUnits:
    """Of one smaller module.

    Attributes:
        masks: group name -> bool (size,), True = kept; groups left out keep all.
        slots: state-dict name -> int64, shape of the small tensor: flat index of each entry in the full tensor.
        sizes: state-dict name -> shape of the full tensor.
    """

    masks: Mapping[str, NDArray[np.bool_]]
    slots: Mapping[str, torch.Tensor]
    sizes: Mapping[str, tuple[int, ...]]

    def slots_of(self, layer: str) -> int:
        """Weights that a layer has in the full module."""
        return prod(self.sizes[f"{layer}.weight"])

    def layers(self, full: Sequence[LayerRecord]) -> tuple[LayerRecord, ...]:
        """Records of the full module's layers with the shapes and multiply-adds of the small one.

        Every weight of a layer is used equally often, so that multiply-adds go with the number of weights. The number of logits stays as recorded.
        """
        records = []
        for layer in full:
            small = self.slots[f"{layer.name}.weight"]
            rows = layer.shape[0] * small.shape[0] // self.sizes[f"{layer.name}.weight"][0]
            macs = layer.macs * small.numel() // self.slots_of(layer.name)
            records.append(replace(layer, shape=(rows, *small.shape[1:]), macs=macs))
        return tuple(records)


def without_units(model: nn.Module, graph: ModelGraph, masks: Mapping[str, NDArray[np.bool_]]) -> tuple[nn.Module, KeptUnits]:
    """A smaller copy, in evaluation mode where `model` lies, and the way back.

    Args:
        model: the graph's, or one whose head has another number of classes; not changed.
        graph: of the pristine module.
        masks: group name -> bool (size,), True = kept.

    Raises:
        GraphError: as `graph.shrink.shrink`.
    """
    small = shrink(model, graph, masks)
    return small.model, KeptUnits(masks=dict(masks), slots=small.slots, sizes=full_sizes(model.state_dict()))
