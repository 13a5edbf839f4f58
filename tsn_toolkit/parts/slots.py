"""Full tensors to the slots of a shrunk module, and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from tsn_toolkit.contracts import FrozenLayer, LayerCodes, LayerPlanes
from tsn_toolkit.vocabulary import MAX_CODE, SlotState


def gather_frozen(frozen: FrozenLayer, slots: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """The frozen view at the slots of a small weight: (q float, present bool, scale float32 (out,) or None)."""
    q = torch.from_numpy(frozen.q).float().flatten()[slots]
    present = torch.from_numpy(frozen.present).flatten()[slots]
    scale = None if frozen.scale is None else torch.from_numpy(frozen.scale)[kept_rows(slots, frozen.q.shape)]
    return q, present, scale


def kept_rows(slots: torch.Tensor, full_shape: tuple[int, ...]) -> torch.Tensor:
    """Indices of the output channels that a small weight kept, int64 (small_out,)."""
    return slots.flatten(1)[:, 0] // int(np.prod(full_shape[1:]))


def layer_integers(layer: LayerCodes | LayerPlanes, inherited: NDArray[np.int8]) -> NDArray[np.int8]:
    """The integers that a layer's codes or planes make of what it inherits (0 where nobody owns the slot): int8, shape of the weight."""
    if isinstance(layer, LayerPlanes):
        gain = layer.gain.astype(np.int16).reshape(-1, *([1] * (inherited.ndim - 1)))
        return np.clip(inherited + np.where(layer.signs, gain, -gain), -MAX_CODE, MAX_CODE).astype(np.int8)
    q = np.where(layer.states == SlotState.PRUNED, np.int8(0), inherited)
    q[layer.states == SlotState.OWN] = layer.codebook[layer.codes]
    if layer.refinement is not None:
        residual = layer.refinement.codebook[layer.refinement.codes].astype(np.int16)
        q[layer.states == SlotState.REFINE] = np.clip(q[layer.states == SlotState.REFINE] + residual, -MAX_CODE, MAX_CODE)
    return q


def scatter_layer(small: LayerCodes | LayerPlanes, slots: torch.Tensor, full_shape: tuple[int, ...]) -> LayerCodes | LayerPlanes:
    """A small layer at the full shape: slots that are gone are PRUNED (of a plane False), channels that are gone have scale and gain 0."""
    rows, flat = kept_rows(slots, full_shape).numpy(), slots.numpy().reshape(-1)
    scale = np.zeros(full_shape[0], np.float32)
    scale[rows] = small.scale
    if isinstance(small, LayerPlanes):
        signs, gain = np.zeros(full_shape, np.bool_), np.zeros(full_shape[0], np.int8)
        signs.reshape(-1)[flat] = small.signs.reshape(-1)
        gain[rows] = small.gain
        return LayerPlanes(signs=signs, gain=gain, scale=scale)
    states = np.full(full_shape, SlotState.PRUNED, np.uint8)
    states.reshape(-1)[flat] = small.states.reshape(-1)
    return dataclasses.replace(small, states=states, scale=scale)


def scatter_vector(small: NDArray[np.float32], slots: torch.Tensor, full_size: int) -> NDArray[np.float32]:
    """A small vector at full length, 0 where units are gone."""
    full = np.zeros(full_size, np.float32)
    full[slots.numpy().reshape(-1)] = small
    return full


def scatter_head(small: NDArray[np.int8], slots: torch.Tensor, features: int) -> NDArray[np.int8]:
    """Head codes (classes, kept features) at full width (classes, features), 0 where features are gone."""
    columns = slots.reshape(slots.shape[0], -1)[0].numpy() % features
    full = np.zeros((small.shape[0], features), np.int8)
    full[:, columns] = small
    return full


def full_sizes(state: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    """Shapes of a full module's state dict."""
    return {name: tuple(tensor.shape) for name, tensor in state.items()}
