"""A trained checkpoint as the trunk: the first owner, in integers."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import nn

from tsn_toolkit.contracts import HeadState, LayerCodes, ModelGraph, NormState, TrunkResult
from tsn_toolkit.filling import NORM_TYPES, read_norm
from tsn_toolkit.free_parameters import bias_of, free_parameters
from tsn_toolkit.numerics.half import round_half
from tsn_toolkit.numerics.kmeans import assign_codes, fit_codebook
from tsn_toolkit.numerics.vector_rows import round_rows
from tsn_toolkit.numerics.vectors import round_vector
from tsn_toolkit.vocabulary import MAX_CODE, WORD_BITS, SlotState, VectorPrecision

CLIPS = np.linspace(0.2, 1.0, 81)
"""Fractions of a row's largest weight that are tried as the largest value of its codes."""


@dataclass(frozen=True)
class TrunkWeights:
    """A checkpoint trunk in the form that fills a module; fields as in `TaskWeights`."""

    q: dict[str, NDArray[np.int8]]
    scale: dict[str, NDArray[np.float32]]
    norms: dict[str, NormState]
    biases: dict[str, NDArray[np.float32]]
    head: HeadState
    free_parameters: dict[str, NDArray[np.float32]] = field(default_factory=dict)


def seed_trunk(seed: int, *, word_bits: int = WORD_BITS) -> TrunkResult:
    """The trunk of a fresh network: nothing but the seed of its initialisation."""
    return TrunkResult(kind="seed", seed=seed, layers={}, norms={}, biases={}, head=None, word_bits=word_bits)


def checkpoint_trunk(model: nn.Module, graph: ModelGraph, *, bit_width: int, max_code: int, seed: int, word_bits: int = WORD_BITS) -> TrunkResult:
    """Codes every layer of a trained module.

    Where the gain of a foldable norm is negative, the channel's weights and the gain change sign together, which leaves the function as it is and
    lets every later export keep the integers as they are.

    Args:
        model: trained, in evaluation mode; left as it is.
        graph: of the module.
        bit_width: bits per code, 1..8; one codebook per layer.
        max_code: largest |q|.
        seed: kept for tasks that need fresh numbers.
        word_bits: bits of one slot's word in the store.
    """
    norms = collect_norms(model)
    layers = {}
    for record in graph.layers:
        if record.name == graph.head:
            continue
        weight = model.get_submodule(record.name).weight.detach().float().cpu().numpy()
        if record.norm:
            norm = norms[record.norm]
            sign = np.where(norm.gain < 0, -1.0, 1.0).astype(np.float32)
            weight = weight * sign.reshape(-1, *([1] * (weight.ndim - 1)))
            norms[record.norm] = NormState(gain=norm.gain * sign, shift=norm.shift)
        layers[record.name] = code_layer(weight, bit_width=bit_width, max_code=max_code)
    return TrunkResult(
        kind="checkpoint",
        seed=seed,
        layers=layers,
        norms=norms,
        biases=collect_biases(model, graph.head),
        head=code_head(model, graph.head, max_code=max_code),
        word_bits=word_bits,
        free_parameters={name: round_rows(value.detach().float().cpu().numpy(), "half") for name, value in free_parameters(model).items()},
    )


def code_layer(weight: NDArray[np.float32], *, bit_width: int, max_code: int) -> LayerCodes:
    """Every slot of one weight (out, ...) as a code: one scale per output channel, one codebook per layer."""
    scale = channel_scale(weight, max_code)
    q = weight.astype(np.float64) / scale.astype(np.float64).reshape(-1, *([1] * (weight.ndim - 1)))
    values = np.clip(q, -max_code, max_code).reshape(-1)
    codebook = fit_codebook(values, bit_width, max_code)
    states = np.full(weight.shape, SlotState.OWN, np.uint8)
    return LayerCodes(states=states, codes=assign_codes(values, codebook), codebook=codebook, bit_width=bit_width, scale=scale)


def channel_scale(weight: NDArray[np.float32], max_code: int) -> NDArray[np.float32]:
    """Scale per output channel that maps the channel's largest weight to `max_code`, rounded to what the store can hold."""
    largest = np.abs(weight).reshape(weight.shape[0], -1).max(axis=1)
    floor = max(float(largest.max()), 1e-8) * 1e-3
    return round_half((np.maximum(largest, floor) / max_code).astype(np.float32))


def least_error_scale(weight: NDArray[np.float32], max_code: int) -> NDArray[np.float32]:
    """Scale per row with which integers in [-max_code, max_code] come closest to the row, float32 (rows,), positive.

    For each of `CLIPS` fractions of the largest weight the codes are taken and the scale that fits them best, <w, q> / <q, q>; the fraction with the
    least squared error wins. Few codes want a scale far below the largest weight: clipping a few costs less than coarse steps for all.

    Args:
        weight: float (rows, columns).
        max_code: largest |code|, at least 1.
    """
    rows = weight.astype(np.float64)
    largest = np.abs(rows).max(axis=1)
    largest = np.maximum(largest, max(float(largest.max()), 1e-8) * 1e-3)
    best, least = largest / max_code, np.full(len(rows), np.inf)
    for clip in CLIPS:
        codes = np.clip(np.rint(rows * (max_code / (clip * largest))[:, None]), -max_code, max_code)
        power = np.square(codes).sum(axis=1)
        scale = np.where(power > 0, (rows * codes).sum(axis=1) / np.maximum(power, 1), best)
        error = np.square(rows - scale[:, None] * codes).sum(axis=1)
        best, least = np.where(error < least, scale, best), np.minimum(error, least)
    return best.astype(np.float32)


def largest_code(bit_width: int, max_code: int) -> int:
    """The largest |code| of a classifier: symmetric around 0 in `bit_width` bits, and at most `max_code`."""
    return min((1 << (bit_width - 1)) - 1, max_code)


def code_head(
    model: nn.Module,
    head: str,
    *,
    bit_width: int = 8,
    max_code: int = MAX_CODE,
    precision: VectorPrecision = "half",
    scale: NDArray[np.float32] | None = None,
) -> HeadState:
    """The classifier in integers, one scale per class.

    Args:
        model: with a Linear layer, or a convolution of kernel size 1, at path `head`.
        head: module path.
        bit_width: bits per code, 2..8; codes are symmetric around 0.
        max_code: largest |code|, where that is less than the bits allow.
        precision: of scales and biases.
        scale: (classes,), already rounded, where the head was trained with them; None: those with the least error.
    """
    module = model.get_submodule(head)
    weight = module.weight.detach().float().cpu().numpy()
    weight = weight.reshape(weight.shape[0], -1)
    max_code = largest_code(bit_width, max_code)
    if scale is None:
        scale = round_vector(least_error_scale(weight, max_code), precision)
    codes = np.clip(np.rint(weight.astype(np.float64) / scale[:, None]), -max_code, max_code).astype(np.int8)
    bias = np.zeros(len(weight), np.float32) if module.bias is None else round_vector(module.bias.detach().float().cpu().numpy(), precision)
    return HeadState(codes=codes, scale=scale, bias=bias)


def collect_norms(model: nn.Module, precision: VectorPrecision = "half") -> dict[str, NormState]:
    """Every norm of the module as two vectors, rounded to what the store can hold."""
    states = {
        name: read_norm(module, name)
        for name, module in model.named_modules()
        if isinstance(module, NORM_TYPES) and (module.weight is not None or isinstance(module, nn.modules.batchnorm._BatchNorm))
    }
    return {name: NormState(gain=round_vector(state.gain, precision), shift=round_vector(state.shift, precision)) for name, state in states.items()}


def collect_biases(model: nn.Module, head: str, precision: VectorPrecision = "half") -> dict[str, NDArray[np.float32]]:
    """Every bias of a module that is neither a norm nor the head, rounded to what the store can hold."""
    biases = {}
    for name, module in model.named_modules():
        bias = bias_of(module)
        if bias is not None and not isinstance(module, NORM_TYPES) and name != head:
            biases[name] = round_vector(bias.detach().float().cpu().numpy(), precision)
    return biases


def trunk_weights(trunk: TrunkResult) -> TrunkWeights:
    """A checkpoint trunk in the form that fills a module."""
    assert trunk.head is not None, "only a checkpoint trunk has weights"
    q = {name: layer.codebook[layer.codes].reshape(layer.states.shape) for name, layer in trunk.layers.items()}
    scale = {name: layer.scale for name, layer in trunk.layers.items()}
    return TrunkWeights(q, scale, dict(trunk.norms), dict(trunk.biases), trunk.head, dict(trunk.free_parameters))
