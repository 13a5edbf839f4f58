"""Wanda: a weight's size times the norm of its input (Sun et al., "A Simple and Effective Pruning Approach for Large Language Models", ICLR 2024).

    s_w = |w| * ||x_w||
    s_u = sqrt(sum over readers, over weights w that read unit u: s_w^2)

x_w holds the inputs that weight w multiplies, over all positions and examples; the norm is divided by sqrt(examples). The paper compares weights of
one output only: scope `row` of the ranking.

The unit form asks what the layers behind a unit would miss: the energy of what they make of it. It sees units that are never active and units whose
outgoing weights are zero.

Deviation: the paper prunes weights and has no unit form; the division by sqrt(examples) changes no ranking.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import nn

from tsn_toolkit.contracts import ModelGraph
from tsn_toolkit.importance._inputs import input_energy
from tsn_toolkit.importance._per_unit import prunable_groups, readers, unit_sums
from tsn_toolkit.importance._per_weight import Batches, Loss, as_scores, layer_weights, require_batches


def score(model: nn.Module, graph: ModelGraph, batches: Batches, loss: Loss | None = None) -> dict[str, NDArray[np.float64]]:
    """Norm, over the weights that read a unit, of |w| times input norm, with the model in eval mode; `loss` is not used.

    Raises:
        DataError: if there is no batch.
        GraphError: if a layer's inputs cannot be seen, or nothing reads a group.
    """
    require_batches(batches, "wanda")
    reading = {group.name: readers(model, group) for group in prunable_groups(graph)}
    energy = input_energy(model, (name for members in reading.values() for _, name in members), batches)
    squares = {name: model.get_parameter(f"{name}.weight").detach().double() ** 2 * values for name, values in energy.items()}
    sums = unit_sums(graph, lambda group: ((member, squares[name]) for member, name in reading[group.name]))
    return {group: np.sqrt(total) for group, total in sums.items()}


def weight_scores(model: nn.Module, graph: ModelGraph, batches: Batches, loss: Loss | None = None) -> dict[str, NDArray[np.float64]]:
    """|w| times input norm per weight, with the model in eval mode; `loss` is not used.

    Raises:
        DataError: if there is no batch.
        GraphError: if a layer's inputs cannot be seen.
    """
    require_batches(batches, "wanda")
    weights = layer_weights(model, graph)
    energy = input_energy(model, weights, batches)
    return {name: as_scores(weight.detach().double().abs() * energy[name].sqrt()) for name, weight in weights.items()}
