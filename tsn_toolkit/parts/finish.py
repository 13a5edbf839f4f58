"""A learned small module becomes integers: the last step of every store strategy, after which nothing changes the function."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tsn_toolkit.contracts import HeadState, LayerCodes, LayerPlanes, ModelGraph, NormState
from tsn_toolkit.filling import write_norm_, write_weight_
from tsn_toolkit.numerics.vectors import round_vector
from tsn_toolkit.parts.head_rounding import trained_scale
from tsn_toolkit.parts.plane_weight import plane_wrapped
from tsn_toolkit.parts.slots import layer_integers, scatter_head, scatter_layer, scatter_vector
from tsn_toolkit.parts.subnet_weight import wrapped
from tsn_toolkit.parts.trunk import code_head, collect_biases, collect_norms
from tsn_toolkit.parts.wrapping import detach_
from tsn_toolkit.vocabulary import MAX_CODE, VectorPrecision


@dataclass(frozen=True)
class SmallIntegers:
    """The integers of a small module: what its weights are made of, before they go back to their slots.

    Attributes:
        owned: layer name -> codes or planes, for layers that are not shared.
        q, scale: layer name -> integers and scales of every layer, the shared ones and the head included.
        head: small classifier.
    """

    owned: dict[str, LayerCodes | LayerPlanes]
    q: dict[str, np.ndarray]
    scale: dict[str, np.ndarray]
    head: HeadState


def to_integers_(
    model: nn.Module,
    graph: ModelGraph,
    shared: Mapping[str, tuple[np.ndarray, np.ndarray]],
    *,
    head_bits: int = 8,
    max_code: int = MAX_CODE,
    precision: VectorPrecision = "half",
) -> SmallIntegers:
    """Ends the wrapping, in place: the module's weights become exactly scale * q, the head's too.

    Args:
        model: small module with wrapped layers.
        graph: of the pristine module, for the head's name.
        shared: layer name -> (q, scale) of layers that are the parent's as they are.
        head_bits: bits per code of the head, 2..8.
        max_code: largest |code| of the head, where that is less than the bits allow.
        precision: of the head's scales and biases.
    """
    owned, q, scale = {}, {}, {}
    for name, wrapper, latent in (*wrapped(model), *plane_wrapped(model)):
        owned[name] = wrapper.finish(latent)
        q[name] = layer_integers(owned[name], wrapper.inherited_q.cpu().numpy().astype(np.int8))
        scale[name] = owned[name].scale
    head_scale = trained_scale(model, graph.head)
    detach_(model)
    for name, (values, factor) in shared.items():
        q[name], scale[name] = values, factor
    for name in q:
        write_weight_(model.get_submodule(name), q[name], scale[name])
    head = round_head_(model, graph.head, bit_width=head_bits, max_code=max_code, precision=precision, scale=head_scale)
    q[graph.head], scale[graph.head] = head.codes, head.scale
    return SmallIntegers(owned=owned, q=q, scale=scale, head=head)


def round_head_(
    model: nn.Module, head: str, *, bit_width: int, max_code: int, precision: VectorPrecision, scale: NDArray[np.float32] | None = None
) -> HeadState:
    """The classifier in integers, written back in place, so that the module computes with what is stored.

    Args:
        model: the module.
        head: module path of its classifier.
        bit_width: bits per code, 2..8.
        max_code: largest |code|, where that is less than the bits allow.
        precision: of its scales and biases.
        scale: (classes,), where it was trained with them.
    """
    state = code_head(model, head, bit_width=bit_width, max_code=max_code, precision=precision, scale=scale)
    module = model.get_submodule(head)
    write_weight_(module, state.codes, state.scale)
    if module.bias is not None:
        module.bias.data.copy_(torch.from_numpy(state.bias))
    return state


def freeze_head_bias_(model: nn.Module, head: str, state: HeadState, precision: VectorPrecision = "half") -> HeadState:
    """The classifier with the bias that the module has now, rounded and written back; steps after `round_head_` may have moved it."""
    module = model.get_submodule(head)
    if module.bias is None:
        return state
    bias = round_vector(module.bias.detach().float().cpu().numpy(), precision)
    module.bias.data.copy_(torch.from_numpy(bias))
    return replace(state, bias=bias)


def freeze_vectors_(model: nn.Module, head: str, precision: VectorPrecision = "half") -> tuple[dict[str, NormState], dict[str, np.ndarray]]:
    """Norms and biases rounded to what the store can hold, written back in place and returned (small lengths)."""
    norms = collect_norms(model, precision)
    for name, norm in norms.items():
        write_norm_(model.get_submodule(name), norm, name)
    biases = collect_biases(model, head, precision)
    for name, bias in biases.items():
        module = model.get_submodule(name)
        module.bias.data.copy_(torch.from_numpy(bias))
    return norms, biases


def scatter_all(
    integers: SmallIntegers,
    norms: Mapping[str, NormState],
    biases: Mapping[str, np.ndarray],
    slots: Mapping[str, torch.Tensor],
    full: Mapping[str, tuple[int, ...]],
    head: str,
) -> tuple[dict[str, LayerCodes | LayerPlanes], dict[str, NormState], dict[str, np.ndarray], HeadState]:
    """Everything at full shape: (layers, norms, biases, head).

    Args:
        integers, norms, biases: of the small module.
        slots: of the shrunk module.
        full: state-dict name -> full shape (before removal).
        head: module path of the head.
    """
    layers = {name: scatter_layer(codes, slots[f"{name}.weight"], full[f"{name}.weight"]) for name, codes in integers.owned.items()}
    full_norms = {}
    for name, norm in norms.items():
        key = next(k for k in (f"{name}.weight", f"{name}.running_mean") if k in slots)
        gain, shift = (scatter_vector(vector, slots[key], full[key][0]) for vector in (norm.gain, norm.shift))
        full_norms[name] = NormState(gain=gain, shift=shift)
    full_biases = {name: scatter_vector(bias, slots[f"{name}.bias"], full[f"{name}.bias"][0]) for name, bias in biases.items()}
    features = int(np.prod(full[f"{head}.weight"][1:]))
    codes = scatter_head(integers.head.codes, slots[f"{head}.weight"], features)
    return layers, full_norms, full_biases, HeadState(codes=codes, scale=integers.head.scale, bias=integers.head.bias)
