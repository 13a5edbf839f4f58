"""Adaptive quantization: the smallest bit width per layer that the validation loss allows, in order of sensitivity.

Every layer starts at its planned width. A step takes one bit from one layer: its codebook is fitted anew by exact k-means. What steps cost is the
mean difference of the loss to the network as planned, paired example by example on validation data, plus one standard error of that mean. It is
measured in two passes:

1. Alone: one layer is narrowed bit by bit, all others at their planned width, until it breaks the limit by itself. This gives each step's damage.
2. Together: of each layer's next step, the one with the least damage per byte saved is tried on the network as narrowed so far. Within the limit it
   stays, else that layer is finished.

The limit is tolerance * (1 + reference loss): absolute where the network is sure, relative where it is not. One standard error above the mean keeps
few or noisy examples from passing for evidence: without it, half of all harmful steps too small to be seen would be taken. Layers * widths
evaluations at most in each pass.

The reference is the network at its planned widths and not the one with own weights in float: the plan's widths are the user's choice, training
through the codebooks makes up for most of their cost, and a plan of few bits would else never be narrowed, however many layers could do with less.
The cost of the planned widths against float is measured and reported beside it. The network should have settled: early in training, at a high
learning rate, even one bit seems to cost nothing.

TinySubNets (Pietron et al., AAAI 2025) names "adaptive quantization" and leaves the criterion to accuracy after growing one number of clusters;
widths per layer, the paired criterion and the order are this project's own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tsn_toolkit.numerics.bits import packed_size_bytes
from tsn_toolkit.numerics.paired import PairedDifference, paired_difference
from tsn_toolkit.parts.subnet_weight import SubnetWeight, wrapped

Losses = Callable[[], NDArray[np.float64]]
"""Loss of each validation example, float64 (n,), of the model as it stands."""


@dataclass(frozen=True)
class LayerWidth:
    """The width of one layer and why.

    Attributes:
        layer: module path.
        own_slots: number of slots that the task owns.
        planned, chosen: bits per code; chosen is 0 where the task owns nothing.
        refused: what one bit fewer would have cost; None where nothing was refused.
        refused_alone: that cost is of this layer alone, not of the network as narrowed.
    """

    layer: str
    own_slots: int
    planned: int
    chosen: int
    refused: PairedDifference | None = None
    refused_alone: bool = False

    @property
    def saved_bytes(self) -> int:
        """Bytes of codes and codebook that the chosen width saves, before entropy coding."""
        return _layer_bytes(self.own_slots, self.planned) - _layer_bytes(self.own_slots, self.chosen)


@dataclass(frozen=True)
class WidthChoice:
    """Widths of all layers of one task.

    Attributes:
        layers: in execution order.
        reference_loss: mean validation loss at the planned widths.
        planned_cost: of the planned widths, against own weights in float.
        limit: largest mean difference plus standard error allowed.
        difference: of the network at the chosen widths, against the planned ones.
        evaluations: passes over the validation examples.
    """

    layers: tuple[LayerWidth, ...]
    reference_loss: float
    planned_cost: PairedDifference
    limit: float
    difference: PairedDifference
    evaluations: int

    def lines(self) -> list[str]:
        """One line on the network, then one per layer."""
        saved = sum(layer.saved_bytes for layer in self.layers)
        return [
            f"bit widths: {saved} bytes less than planned; validation loss {self.difference} on {self.reference_loss:.4f}, limit {self.limit:.4f} "
            f"({self.difference.count} examples, {self.evaluations} evaluations); the planned widths cost {self.planned_cost} against float",
            *(f"  {layer.layer}: {_reason(layer)}" for layer in self.layers),
        ]


def adapt_bits_(model: nn.Module, losses: Losses, tolerance: float) -> WidthChoice:
    """Gives every wrapped layer the smallest width within the tolerance, in place; scales must be fixed, codebooks are left fitted.

    Args:
        model: with wrapped layers, their `bit_width` as planned.
        losses: evaluates the model on validation data.
        tolerance: largest loss increase, as a fraction of 1 + the reference loss.
    """
    search = _Search(model, losses, tolerance)
    search.narrow()
    return search.choice()


@dataclass
class _Layer:
    """One layer during the search: codebooks and costs by width."""

    name: str
    wrapper: SubnetWeight
    latent: torch.Tensor
    own_slots: int
    planned: int
    books: dict[int, torch.Tensor] = field(default_factory=dict)
    alone: dict[int, PairedDifference] = field(default_factory=dict)
    too_much_alone: PairedDifference | None = None
    refused: PairedDifference | None = None

    def set_width_(self, bit_width: int) -> None:
        self.wrapper.bit_width = bit_width
        if bit_width not in self.books:
            self.wrapper.fit_codebook_(self.latent)
            self.books[bit_width] = self.wrapper.codebook
        self.wrapper.codebook = self.books[bit_width]

    def clear_(self) -> None:
        self.wrapper.codebook = self.wrapper.codebook.new_empty(0)

    @property
    def width(self) -> int:
        return self.wrapper.bit_width

    @property
    def is_open(self) -> bool:
        return self.refused is None and self.width - 1 in self.alone

    @property
    def damage_per_byte(self) -> float:
        """Of the next step, measured alone."""
        saved = _layer_bytes(self.own_slots, self.width) - _layer_bytes(self.own_slots, self.width - 1)
        return (self.alone[self.width - 1].mean - self.alone[self.width].mean) / saved


class _Search:
    """The two passes over one model."""

    def __init__(self, model: nn.Module, losses: Losses, tolerance: float):
        self._losses = losses
        self._evaluations = 0
        self._layers = [_Layer(name, wrapper, latent, int(wrapper.own_slots().sum()), wrapper.bit_width) for name, wrapper, latent in wrapped(model)]
        self._owners = [layer for layer in self._layers if layer.own_slots]
        for layer in self._layers:
            layer.clear_()
        in_float = self._evaluate()
        for layer in self._layers:
            layer.set_width_(layer.planned)
        self._reference = self._evaluate()
        self._planned_cost = paired_difference(self._reference, in_float)
        self._limit = tolerance * (1 + float(self._reference.mean()))
        self._whole = PairedDifference(0.0, 0.0, len(self._reference))

    def narrow(self) -> None:
        for layer in self._owners:
            self._measure_alone(layer)
        while open_layers := [layer for layer in self._owners if layer.is_open]:
            layer = min(open_layers, key=lambda candidate: candidate.damage_per_byte)
            layer.set_width_(layer.width - 1)
            difference = self._difference()
            if difference.upper <= self._limit:
                self._whole = difference
            else:
                layer.refused = difference
                layer.set_width_(layer.width + 1)

    def choice(self) -> WidthChoice:
        return WidthChoice(
            layers=tuple(self._layer_width(layer) for layer in self._layers),
            reference_loss=float(self._reference.mean()),
            planned_cost=self._planned_cost,
            limit=self._limit,
            difference=self._whole,
            evaluations=self._evaluations,
        )

    def _measure_alone(self, layer: _Layer) -> None:
        layer.alone[layer.planned] = self._whole
        for bit_width in range(layer.planned - 1, 0, -1):
            layer.set_width_(bit_width)
            difference = self._difference()
            if difference.upper > self._limit:
                layer.too_much_alone = difference
                break
            layer.alone[bit_width] = difference
        layer.set_width_(layer.planned)

    def _layer_width(self, layer: _Layer) -> LayerWidth:
        alone = layer.refused is None
        return LayerWidth(layer.name, layer.own_slots, layer.planned, layer.width, layer.too_much_alone if alone else layer.refused, alone)

    def _difference(self) -> PairedDifference:
        return paired_difference(self._evaluate(), self._reference)

    def _evaluate(self) -> NDArray[np.float64]:
        self._evaluations += 1
        return self._losses()


def _layer_bytes(own_slots: int, bit_width: int) -> int:
    """Bytes of a layer's packed codes and its codebook."""
    return packed_size_bytes(own_slots, bit_width) + (1 << bit_width if bit_width else 0)


def _reason(layer: LayerWidth) -> str:
    if not layer.own_slots:
        return "0 bits, the task owns no slot"
    words = f"{layer.chosen} of {layer.planned} bits at {layer.own_slots} slots, {layer.saved_bytes} bytes less"
    if layer.refused is None:
        return words
    whose = "this layer alone" if layer.refused_alone else "the network"
    return f"{words}; one bit fewer would cost {whose} {layer.refused}"
