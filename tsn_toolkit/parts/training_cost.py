"""Floating-point operations of training, counted as it runs: a multiply-add is two.

Per layer and example, with weight density d and the share g of weight gradients that is computed:

    forward            2 * macs * d
    input gradient     2 * macs * d     (not of a layer whose input needs no gradient: the first)
    weight gradient    2 * macs * g

Every pass over replayed examples costs the same as one over as many current ones. Updates of masks and gradient patterns are added as the parts
state them; a selection of the largest counts one comparison per number. Left out, for dense and sparse training alike: norms, activations, biases,
losses and the optimizer, which take a few operations per number.

These are the operations that the method asks for. Dense kernels compute all of them whatever the masks say; the clock shows what is really saved.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tsn_toolkit.contracts import LayerRecord


@dataclass(frozen=True)
class LayerCost:
    """One layer of a training step.

    Attributes:
        macs: multiply-adds of one example's forward pass with all weights.
        first: whether its input needs no gradient.
        density: fraction of its weights that is active.
        gradient_density: fraction of its weight gradients that is computed.
    """

    macs: int
    first: bool
    density: float = 1.0
    gradient_density: float = 1.0


def step_flops(layers: Sequence[LayerCost], examples: int) -> float:
    """Operations of one forward and backward pass of `examples` examples."""
    per_example = sum(2 * layer.macs * (layer.density * (1 if layer.first else 2) + layer.gradient_density) for layer in layers)
    return examples * per_example


class TrainingCost:
    """Adds up the operations of a task's training.

    Attributes:
        flops: so far.
    """

    def __init__(self, layers: Sequence[LayerRecord], *, head: str, logits: int):
        """Nothing has run yet.

        Args:
            layers: of the model in execution order, the head included.
            head: its name.
            logits: that the head has now.
        """
        self._layers = [
            (layer.name, layer.macs * logits // layer.shape[0] if layer.name == head else layer.macs, position == 0)
            for position, layer in enumerate(layers)
        ]
        self.flops = 0.0

    def add_step(self, examples: int, densities: Mapping[str, float], gradient_densities: Mapping[str, float]) -> None:
        """Adds one step.

        Args:
            examples: that pass forward and backward, replayed ones included.
            densities: of weights, by layer; layers left out are dense.
            gradient_densities: of weight gradients; layers left out have the density of their weights.
        """
        layers = []
        for name, macs, first in self._layers:
            density = densities.get(name, 1.0)
            layers.append(LayerCost(macs, first, density, gradient_densities.get(name, density)))
        self.flops += step_flops(layers, examples)

    def add_operations(self, count: int) -> None:
        """Adds what choosing masks takes."""
        self.flops += count
