"""Multiply-accumulates of a model that is not built: from the graph and what stays of every group."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import numpy as np
from numpy.typing import NDArray

from tsn_toolkit.contracts import ModelGraph, ProductRecord
from tsn_toolkit.errors import PlanError
from tsn_toolkit.graph import kept_entries
from tsn_toolkit.registry import did_you_mean

Keep = int | NDArray[np.bool_]


def macs_after(graph: ModelGraph, keep: Mapping[str, Keep]) -> int:
    """Exact multiply-accumulates at batch 1 of the model that keeps these units.

    Args:
        graph: of the full model.
        keep: group name -> bool mask (size,), or a number of units, of which the first ones are taken; groups left out keep all.

    A layer's multiply-accumulates are its positions times its weights, so they shrink with the weights; those of other products shrink with their
    grids.

    Raises:
        PlanError: if a group is unknown, or a number or mask does not fit it.
    """
    masks = {name: _mask(graph, name, value) for name, value in keep.items()}
    lost = sum(
        layer.macs // prod(layer.shape) * (prod(layer.shape) - prod(small))
        for layer, small in zip(graph.layers, kept_shapes(graph, masks).values(), strict=True)
    )
    return graph.macs - lost - sum(product.macs - _kept_macs(product, masks) for product in graph.products)


def _kept_macs(product: ProductRecord, masks: Mapping[str, NDArray[np.bool_]]) -> int:
    """Multiply-accumulates of a product that stay: a grid of fewer entries."""
    macs = product.macs // prod(factor.entries for factor in product.factors)
    for factor in product.factors:
        macs *= factor.entries - sum(int(entries[~masks[name]].sum()) for name, entries in factor.units.items() if name in masks)
    return macs


def kept_shapes(graph: ModelGraph, keep: Mapping[str, Keep]) -> dict[str, tuple[int, ...]]:
    """Layer name -> shape of its weight inside the units that stay, in execution order, the head included; arguments as in `macs_after`.

    Raises:
        PlanError: if a group is unknown, or a number or mask does not fit it.
    """
    kept = kept_entries(graph, {name: _mask(graph, name, value) for name, value in keep.items()})
    shapes = {}
    for layer in graph.layers:
        dims = kept.get(f"{layer.name}.weight", {})
        shapes[layer.name] = tuple(int(dims[dim].sum()) if dim in dims else size for dim, size in enumerate(layer.shape))
    return shapes


def _mask(graph: ModelGraph, name: str, value: Keep) -> NDArray[np.bool_]:
    """A mask of a known group's size.

    Raises:
        PlanError: if there is no such group, or `value` does not fit it.
    """
    sizes = {group.name: group.size for group in graph.groups}
    if name not in sizes:
        raise PlanError(f"No unit group is called `{name}`{did_you_mean(name, sizes)}. Use one of: {', '.join(sizes)}.")
    if isinstance(value, (int, np.integer)):
        if not 1 <= value <= sizes[name]:
            raise PlanError(f"`keep` of group `{name}` must be in 1..{sizes[name]}, got {value}. Keep at least one of its units.")
        return np.arange(sizes[name]) < value
    mask = np.asarray(value)
    if mask.dtype != np.bool_ or mask.shape != (sizes[name],):
        raise PlanError(f"The mask of group `{name}` must be bool of shape ({sizes[name]},), got {mask.dtype} {mask.shape}. Use one bool per unit.")
    return mask
