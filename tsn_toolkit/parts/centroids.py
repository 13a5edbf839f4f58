"""Centroid fine-tuning: every own slot keeps its code, and the codebook's entries move by gradient.

With codes k(i) fixed, the weight at own slot i is scale[c(i)] * e[k(i)], so the gradient of an entry is the sum over its members,

    dL/de_k = sum over {i: k(i) = k} of scale[c(i)] * dL/dw_i

(the shared-weight gradient of Deep Compression, Han et al., ICLR 2016). Deviation: what the optimizer moves is u_k = n_k * e_k, where n_k is the root
of the sum of scale[c(i)]**2 over the members. A step in u moves the weights of the members together by exactly its own length, so that gradient
descent on u is gradient descent on the weights, projected on what the codebook can express, and the learning rate that suits the weights suits it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import nn
from torch.nn.utils import parametrize

from tsn_toolkit.numerics.kmeans import assign_codes
from tsn_toolkit.parts.subnet_weight import SubnetWeight, wrapped


class Centroids(nn.Module):
    """Second parametrization of a wrapped weight (out, ...): own slots take their value from `position`, all others pass.

    Attributes:
        position: float parameter (2**bit_width,), u above.
        length: float buffer (2**bit_width,), n above; 1 where an entry has no member.
        codes: int64 buffer, shape of the weight; the code of an own slot, 0 elsewhere.
        own: bool buffer, shape of the weight.
        scale: float buffer (out, 1, ...).
    """

    def __init__(self, wrapper: SubnetWeight, latent: torch.Tensor):
        super().__init__()
        own = wrapper.own_slots()
        found = assign_codes(wrapper.own_values(latent), wrapper.codebook.cpu().numpy().astype(np.int8))
        codes = torch.zeros(own.shape, dtype=torch.int64, device=latent.device)
        codes[own] = torch.from_numpy(found.astype(np.int64)).to(latent.device)
        scale = wrapper.scale.view(-1, *([1] * (own.dim() - 1)))
        squares = scale.double().square().expand(own.shape)[own]
        length = torch.zeros(wrapper.codebook.numel(), dtype=torch.float64, device=latent.device).index_add_(0, codes[own], squares).sqrt()
        length = torch.where(length > 0, length, torch.ones_like(length)).float()
        self.register_buffer("own", own.clone())
        self.register_buffer("codes", codes)
        self.register_buffer("scale", scale.clone())
        self.register_buffer("length", length)
        self.position = nn.Parameter(wrapper.codebook * length)

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """The weight as wrapped -> the same with own values from the entries."""
        entries = self.position / self.length
        return torch.where(self.own, entries[self.codes] * self.scale, weight)


def attach_centroids_(model: nn.Module) -> list[nn.Parameter]:
    """Fixes the codes of every wrapped layer that owns slots, in place; returns what is left to train."""
    positions = []
    for name, wrapper, latent in list(wrapped(model)):
        if wrapper.codebook.numel() and bool(wrapper.own_slots().any()):
            centroids = Centroids(wrapper, latent)
            parametrize.register_parametrization(model.get_submodule(name), "weight", centroids)
            positions.append(centroids.position)
    return positions


@torch.no_grad()
def round_centroids_(model: nn.Module) -> None:
    """Takes the centroids off again, in place: entries rounded to integers become the codebook, own latent weights its entries.

    The codebook is sorted; entries that have met become one.
    """
    for chain, centroids in _attached(model):
        wrapper, latent = chain[0], chain.original
        entries = (centroids.position / centroids.length).round().clamp(-wrapper.max_code, wrapper.max_code)
        latent.copy_(torch.where(centroids.own, entries[centroids.codes] * centroids.scale, latent))
        needed = entries[torch.unique(centroids.codes[centroids.own])].unique()
        wrapper.codebook = torch.cat([needed, needed[-1:].expand(entries.numel() - needed.numel())])
        del chain[1]


def _attached(model: nn.Module) -> Iterator[tuple[parametrize.ParametrizationList, Centroids]]:
    for module in model.modules():
        if parametrize.is_parametrized(module, "weight"):
            chain = module.parametrizations["weight"]
            if len(chain) > 1 and isinstance(chain[1], Centroids):
                yield chain, chain[1]
