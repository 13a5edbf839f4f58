"""Full tensors to the slots of a shrunk module, and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from tsn_toolkit.contracts import FrozenLayer, LayerCodes
from tsn_toolkit.vocabulary import SlotState


def gather_frozen(frozen: FrozenLayer, slots: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """The frozen view at the slots of a small weight: (q float, present bool, scale float32 (out,) or None)."""
    q = torch.from_numpy(frozen.q).float().flatten()[slots]
    present = torch.from_numpy(frozen.present).flatten()[slots]
    scale = None if frozen.scale is None else torch.from_numpy(frozen.scale)[kept_rows(slots, frozen.q.shape)]
    return q, present, scale


def kept_rows(slots: torch.Tensor, full_shape: tuple[int, ...]) -> torch.Tensor:
    """Indices of the output channels that a small weight kept, int64 (small_out,)."""
    return slots.flatten(1)[:, 0] // int(np.prod(full_shape[1:]))


def scatter_codes(small: LayerCodes, slots: torch.Tensor, full_shape: tuple[int, ...]) -> LayerCodes:
    """A small layer's codes at the full shape: slots that are gone are PRUNED, channels that are gone have scale 0."""
    states = np.full(full_shape, SlotState.PRUNED, np.uint8)
    states.reshape(-1)[slots.numpy().reshape(-1)] = small.states.reshape(-1)
    scale = np.zeros(full_shape[0], np.float32)
    scale[kept_rows(slots, full_shape).numpy()] = small.scale
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
