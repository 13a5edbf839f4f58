"""The weights that a coming prune would take next, and the step in their direction.

Per layer, among the weights that were not 0 when the task began and are not 0 now: the fraction with the least saliency, equals included. A weight
that an earlier prune took is no candidate: it is 0, or has grown again from 0, so that losing it leads back to where the task began.

    eps = rho * g_c / ||g_c||,   g_c = g at the candidates of all layers, else 0
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from tsn_toolkit.importance.sdp import scaled_at

Saliency = Callable[[str, torch.Tensor, int], torch.Tensor]
"""From a weight's name, the gradient of a batch's mean loss and the batch's size to scores in the gradient's shape: what the prune ranks by."""


class PruningCandidates:
    """Candidates among some weights of one task.

    Attributes:
        weights: name -> parameter.
    """

    def __init__(self, weights: Mapping[str, torch.Tensor], *, fraction: float, saliency: Saliency):
        """The task begins now.

        Args:
            weights: name -> parameter that may be pruned.
            fraction: of a layer's weights that are left, in (0, 1]; one weight at least.
            saliency: the lowest are pruned first.
        """
        self.weights, self._fraction, self._saliency = dict(weights), fraction, saliency
        self._began = {name: weight.detach() != 0 for name, weight in self.weights.items()}

    def direction(self, gradients: Mapping[str, torch.Tensor], *, examples: int, rho: float) -> dict[str, torch.Tensor]:
        """eps by name; 0 everywhere where no candidate has a gradient.

        Args:
            gradients: name -> gradient of the mean loss of a batch.
            examples: of the batch.
            rho: Euclidean norm of eps.
        """
        chosen = {}
        for name, gradient in gradients.items():
            left = self._began[name] & (self.weights[name].detach() != 0)
            saliency = self._saliency(name, gradient, examples)
            ranked = saliency[left]
            if len(ranked):
                left &= saliency <= ranked.kthvalue(max(1, round(self._fraction * len(ranked)))).values
            chosen[name] = left
        return scaled_at(chosen, gradients, rho)
