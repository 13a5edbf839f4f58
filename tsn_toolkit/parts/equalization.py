"""Cross-layer equalization (Nagel et al., ICCV 2019) as far as a store of inherited integers allows it.

Behind layer A, its norm and functions with f(s * x) = s * f(x) for s > 0 (ReLU, pooling) follows layer B, and nothing else reads what lies between.
Then channel c between them may be divided by s_c on A's side and multiplied by it on B's, and the network computes what it did. With r_A, r_B the
largest weights of the channel on either side (A's with its norm folded in), s_c = sqrt(r_A / r_B) makes the two ranges equal.

What may change in this store, and what never does:

- A's side is the task's own: two vectors of a norm, or without a norm the scale per channel and the bias. A's integers stay whoever owns them. A
  layer that is the parent's as it is, scale included, and has no norm is refused.
- B's side multiplies INPUT channels, which no scale per output channel can absorb. It is only done to channels whose weights in B are all the task's
  own (or 0): a channel with one inherited weight keeps s_c = 1. Shared layers and planes are refused.

Deviations from the paper: s_c is rounded to a power of two, so that neither the float function nor what vectors can store changes in any digit, and
the ranges meet within a factor of two; each pair is equalized once. What differs afterwards are B's own codes and codebook, fitted to columns of more
even size, and the ranges of activations. Scales per output channel already give A all that the paper gives it, so a gain is far from certain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from tsn_toolkit.contracts import ModelGraph, NodeRecord
from tsn_toolkit.filling import CODED_TYPES
from tsn_toolkit.parts.layer_inputs import input_gram, relative_error
from tsn_toolkit.parts.rounding import float_weight
from tsn_toolkit.parts.step_record import LayerChange
from tsn_toolkit.parts.subnet_weight import SubnetWeight, wrapped
from tsn_toolkit.vocabulary import VectorPrecision

LAYERS = {"conv1d", "conv2d", "linear"}
HOMOGENEOUS = {
    "relu", "relu_", "leaky_relu", "leaky_relu_", "dropout", "max_pool1d", "max_pool2d", "avg_pool1d", "avg_pool2d", "adaptive_avg_pool1d",
    "adaptive_avg_pool2d", "adaptive_max_pool1d", "adaptive_max_pool2d",
}  # fmt: skip
"""Operations with f(s * x) = s * f(x) for s > 0 that keep channels apart."""


@dataclass(frozen=True)
class Pair:
    """Two layers that share channels nobody else reads.

    Attributes:
        first, second: module paths of A and B.
        norm: path of the norm behind A, "" for none.
        refusal: why the graph does not allow it; "" where it does. `second` is "" then.
    """

    first: str
    second: str
    norm: str = ""
    refusal: str = ""

    @property
    def name(self) -> str:
        """Of the record."""
        return f"{self.first} -> {self.second}" if self.second else self.first


def layer_pairs(graph: ModelGraph) -> tuple[Pair, ...]:
    """What follows each layer but the head, in execution order: a pair, or why there is none."""
    readers: dict[str, list[str]] = {}
    for source, destination, _ in graph.edges:
        readers.setdefault(source, []).append(destination)
    nodes = {node.name: node for node in graph.nodes}
    runs: dict[str, list[NodeRecord]] = {}
    for node in graph.nodes:
        if node.op in LAYERS:
            runs.setdefault(node.module, []).append(node)
    pairs = []
    for layer in graph.layers:
        if layer.name == graph.head:
            continue
        own = runs.get(layer.name, [])
        if len(own) == 1:
            pairs.append(_follow(own[0], readers, nodes, runs))
        else:
            pairs.append(Pair(layer.name, "", refusal=f"runs {len(own)} times in the graph"))
    return tuple(pairs)


def _follow(first: NodeRecord, readers: dict[str, list[str]], nodes: dict[str, NodeRecord], runs: dict[str, list[NodeRecord]]) -> Pair:
    """The layer behind `first`, through operations that allow it."""
    node, norm = first, ""
    while True:
        following = readers.get(node.name, [])
        if len(following) != 1:
            return Pair(first.module, "", refusal=f"its output is read {len(following)} times")
        node = nodes[following[0]]
        if node.op in LAYERS:
            if len(runs[node.module]) != 1:
                return Pair(first.module, "", refusal=f"`{node.module}` behind it runs {len(runs[node.module])} times")
            return Pair(first.module, node.module, norm)
        if node.op == "batch_norm" and not norm and node.module:
            norm = node.module
        elif node.op not in HOMOGENEOUS:
            return Pair(first.module, "", refusal=f"`{node.op}` behind it does not pass a factor on, or mixes channels")


@torch.no_grad()
def equalize_(
    model: nn.Module, graph: ModelGraph, batches: Sequence[torch.Tensor], *, max_code: int, precision: VectorPrecision = "half"
) -> tuple[LayerChange, ...]:
    """Equalizes every pair that allows it, in place; B's scales (where it reads nothing inherited) and codebook are fitted anew.

    Args:
        model: wrapped small module, scales fixed and codebooks fitted; evaluation mode. Its float function stays.
        graph: of the pristine module.
        batches: calibration inputs, for the error of B's codes.
        max_code: largest |q|; own weights that would need a larger one keep their channel as it is.
        precision: of scales.

    Returns:
        One entry per pair, named `A -> B`, whose codes and error are B's, and one per layer A without a pair.
    """
    layers = {name: (wrapper, latent) for name, wrapper, latent in wrapped(model)}
    changes = []
    for pair in layer_pairs(graph):
        refusal = pair.refusal or _refusal(model, pair, layers)
        if refusal:
            changes.append(LayerChange(pair.name, reason=refusal))
            continue
        wrapper, latent = layers[pair.second]
        factors = _factors(model, pair, wrapper, latent, max_code)
        if bool((factors == 1).all()):
            reason = f"no channel from `{pair.first}` may or need change: inherited weights read it, or its ranges are within a factor of two"
            changes.append(LayerChange(pair.name, reason=reason))
            continue
        changes.append(_apply_(model, pair, layers, factors, batches, precision))
    return tuple(changes)


def _refusal(model: nn.Module, pair: Pair, layers: dict[str, tuple[SubnetWeight, torch.Tensor]]) -> str:
    """Why the store does not allow a pair that the graph allows."""
    first, second = model.get_submodule(pair.first), model.get_submodule(pair.second)
    if pair.second not in layers or layers[pair.second][0].codebook.numel() == 0:
        return f"`{pair.second}` has no code of the task's own to change"
    if getattr(second, "groups", 1) != 1 or not isinstance(first, CODED_TYPES) or first.weight.shape[0] != second.weight.shape[1]:
        return "the input channels of the second are not one by one the output channels of the first"
    if not pair.norm and pair.first not in layers:
        return f"`{pair.first}` is the parent's with its scales and has no norm"
    if pair.norm and model.get_submodule(pair.norm).weight is None:
        return f"norm `{pair.norm}` has no gain"
    return ""


def _factors(model: nn.Module, pair: Pair, wrapper: SubnetWeight, latent: torch.Tensor, max_code: int) -> torch.Tensor:
    """s for each channel between the layers, powers of two, float32 (channels,); 1 where it may not or need not change."""
    first = model.get_submodule(pair.first).weight.flatten(1).abs().amax(1)
    if pair.norm:
        norm = model.get_submodule(pair.norm)
        first = first * (norm.weight * torch.rsqrt(norm.running_var + norm.eps)).abs()
    weight = float_weight(wrapper, latent)
    columns = weight.transpose(0, 1).flatten(1)
    second = columns.abs().amax(1)
    inherited = ((weight != 0) & wrapper.inherited_slots()).transpose(0, 1).flatten(1).any(1)
    ratio = torch.where((first > 0) & (second > 0), first / second.clamp_min(1e-30), torch.ones_like(first))
    factors = torch.exp2((0.5 * torch.log2(ratio)).round())
    held = wrapper.inherited_slots().flatten(1).any(1)  # rows whose scale must stay
    room = torch.where(held, wrapper.scale * max_code, torch.full_like(wrapper.scale, torch.inf)).view(-1, *([1] * (weight.dim() - 1)))
    fits = (weight.abs() * factors.view(1, -1, *([1] * (weight.dim() - 2))) <= room).transpose(0, 1).flatten(1).all(1)
    return torch.where(inherited | (~fits & (factors > 1)), torch.ones_like(factors), factors)


def _apply_(
    model: nn.Module,
    pair: Pair,
    layers: dict[str, tuple[SubnetWeight, torch.Tensor]],
    factors: torch.Tensor,
    batches: Sequence[torch.Tensor],
    precision: VectorPrecision,
) -> LayerChange:
    wrapper, latent = layers[pair.second]
    own = wrapper.own_slots()
    before, codes = _coding_error(model, pair.second, wrapper, latent, batches), _codes(wrapper, latent)
    if pair.norm:
        norm = model.get_submodule(pair.norm)
        norm.weight.div_(factors)
        norm.bias.div_(factors)
    else:
        _divide_outputs_(model.get_submodule(pair.first), *layers[pair.first], factors)
    shape = (1, -1, *([1] * (latent.dim() - 2)))
    latent.copy_(torch.where(own, latent * factors.view(shape), latent))
    wrapper.fix_scale_(latent, precision)
    wrapper.fit_codebook_(latent)
    changed = int((_codes(wrapper, latent) != codes)[own].sum())
    return LayerChange(pair.name, changed, int(own.sum()), before, _coding_error(model, pair.second, wrapper, latent, batches))


def _divide_outputs_(module: nn.Module, wrapper: SubnetWeight, latent: torch.Tensor, factors: torch.Tensor) -> None:
    wrapper.scale.div_(factors)
    latent.div_(factors.view(-1, *([1] * (latent.dim() - 1))))
    if module.bias is not None:
        module.bias.div_(factors)


def _codes(wrapper: SubnetWeight, latent: torch.Tensor) -> torch.Tensor:
    """Integers that the layer computes with, shape of the weight."""
    return (wrapper(latent) / wrapper.scale.view(-1, *([1] * (latent.dim() - 1)))).round()


def _coding_error(model: nn.Module, name: str, wrapper: SubnetWeight, latent: torch.Tensor, batches: Sequence[torch.Tensor]) -> float | None:
    gram = input_gram(model, name, batches)
    return None if gram is None else relative_error(wrapper(latent), float_weight(wrapper, latent), gram)
