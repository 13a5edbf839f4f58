"""The wrapper of layers with a bit plane: one sign per slot and one gain per channel over the frozen view.

    q = clip(inherited q + gain[c] * sign(d), -127, 127),   w = scale[c] * q

The latent weight is the difference d to the inherited weight (0 where nobody owns the slot). First it trains freely, w = inherited + d; then
`start_plane_` sets each gain to the mean |d| of its channel, which is the best one for fixed signs (XNOR-Net, Rastegari et al., ECCV 2016), and both
train on through their roundings: the gradient of w goes to d as it is, and to the gain by the signs. From then on the layer computes with exactly the
integers that are stored.

A gain is trained in units of the weight, so that the learning rate that suits the weights suits it; it is stored in units of q, 1..127.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

from tsn_toolkit.contracts import LayerPlanes
from tsn_toolkit.numerics.vectors import round_vector
from tsn_toolkit.parts.wrapping import wrappers_of
from tsn_toolkit.quantizers.straight_through import rounded_within, sign
from tsn_toolkit.vocabulary import MAX_CODE, VectorPrecision

FRESH_GAIN = 32
"""Gain that a channel without an inherited scale starts with, so that later planes above it have room and finer steps below it."""


class PlaneWeight(nn.Module):
    """Parametrization of one weight of shape (out, ...).

    Attributes:
        inherited_q: float buffer of integers, 0 where nothing is inherited.
        scale: float buffer (out,), 0 where not yet fixed.
        gain: float parameter (out,), in units of the weight; no part of the forward pass before `start_plane_`.
        most: float buffer (out,), the largest gain in units of q that keeps q within the code.
    """

    def __init__(self, q: torch.Tensor, scale: torch.Tensor | None, *, max_code: int):
        super().__init__()
        self.plane = False
        self.gain = nn.Parameter(torch.zeros(q.shape[0]))
        self.register_buffer("inherited_q", q.float())
        self.register_buffer("scale", torch.zeros(q.shape[0]) if scale is None else scale.float().clone())
        largest = q.flatten(1).abs().amax(1)
        room = torch.full_like(largest, MAX_CODE) if max_code == MAX_CODE else max_code - largest
        self.register_buffer("most", room.float())
        self.register_buffer("_code", torch.tensor(float(MAX_CODE)))

    def forward(self, difference: torch.Tensor) -> torch.Tensor:
        """Latent difference (out, ...) -> the weight the layer computes with."""
        scale = self._per_channel(self.scale)
        if not self.plane:
            return self.inherited_q * scale + difference
        gain = self._stored_gain()
        q = rounded_within(self.inherited_q + self._per_channel(gain) * self._signs(difference, gain), -self._code, self._code)
        return q * scale

    def right_inverse(self, weight: torch.Tensor) -> torch.Tensor:
        """The latent difference starts where the layer's weight is."""
        return weight - self.inherited_q * self._per_channel(self.scale)

    @torch.no_grad()
    def start_plane_(self, difference: torch.Tensor, precision: VectorPrecision = "half") -> None:
        """From now on the layer computes with signs and gains; channels without an inherited scale get one, rounded to what the store can hold."""
        size = difference.abs().flatten(1).mean(1).clamp_min(1e-8)
        scale = torch.where(self.scale > 0, self.scale, size / torch.clamp(self.most, 1, FRESH_GAIN))
        self.scale.copy_(torch.from_numpy(round_vector(scale.cpu().numpy(), precision)))
        self.gain.copy_(size)
        self.plane = True

    @torch.no_grad()
    def finish(self, difference: torch.Tensor) -> LayerPlanes:
        """The layer as integers, in the shape of the (small) weight."""
        gain = self._stored_gain()
        signs = self._signs(difference, gain) > 0
        return LayerPlanes(signs=signs.cpu().numpy(), gain=gain.cpu().numpy().astype(np.int8), scale=self.scale.cpu().numpy())

    def _stored_gain(self) -> torch.Tensor:
        """Gains in units of q, whole numbers (out,)."""
        return rounded_within(self.gain / self.scale, self.most.clamp(max=1), self.most)

    def _signs(self, difference: torch.Tensor, gain: torch.Tensor) -> torch.Tensor:
        """-1 or 1, shape of the weight; scaled so that gain * sign has the gradient of the difference itself."""
        size = (gain.detach() * self.scale).clamp_min(1e-12)
        return sign(difference / self._per_channel(size))

    def _per_channel(self, vector: torch.Tensor) -> torch.Tensor:
        return vector.view(-1, *([1] * (self.inherited_q.dim() - 1)))


def plane_wrapped(model: nn.Module) -> Iterator[tuple[str, PlaneWeight, torch.Tensor]]:
    """Every layer of the model with a plane: (path, wrapper, latent difference)."""
    return wrappers_of(model, PlaneWeight)
