"""Gains of norms that fold into a layer stay positive, so that folding only rescales channels and exported integers are the store's as they are."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from tsn_toolkit.contracts import ModelGraph


def foldable_norms(graph: ModelGraph) -> list[str]:
    """Paths of the norms that directly follow a layer."""
    return [layer.norm for layer in graph.layers if layer.norm]


@torch.no_grad()
def clamp_gains_(gains: Iterable[torch.Tensor], minimum: float) -> None:
    """Lifts every entry below `minimum` to it, in place."""
    for gain in gains:
        gain.clamp_(min=minimum)
