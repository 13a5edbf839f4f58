"""A plan under a budget over a trained trunk: which units go, and which layers become the task's own.

A task inherits every slot of a trained trunk, so a density there says how many slots it OWNS, and what owning is worth shows only after training.
What can be measured beforehand is what a task gives up: units. Each number of units is measured as the task will start, with the layers that read the
removed units mended in closed form (`mend`); these layers become own, and their codes are the bytes that removing costs. All other layers are shared,
unless an override says otherwise. Fewer units save multiply-accumulates and time but cost bytes: under a limit of bytes the units go where few
weights read them. With a density below 1 a task owns only that share of the mended weights, and what is measured is the start before that choice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tsn_toolkit.contracts import CompressionPlan, GroupPlan, ModelGraph
from tsn_toolkit.importance import magnitude
from tsn_toolkit.plan.answers import Answers, Loss, answers_of
from tsn_toolkit.plan.candidate import Candidate, LayerOption, Scores, code_weight, masks_of
from tsn_toolkit.plan.cost_model import CostModel
from tsn_toolkit.plan.measured import measured_record
from tsn_toolkit.plan.options import measure_options
from tsn_toolkit.plan.own_layers import OwnLayer, free_layers, own_layers
from tsn_toolkit.plan.settings import layer_plan
from tsn_toolkit.plan.subject import PlanSubject
from tsn_toolkit.plan.under_budget import BudgetedPlan, choose


class Mend(Protocol):
    """How a task starts without some units."""

    def __call__(self, masks: Mapping[str, NDArray[np.bool_]], *, free: frozenset[str]) -> nn.Module:
        """The network that keeps these units of every group, layers in `free` fitted anew, in evaluation mode."""


def plan_over_trunk(subject: PlanSubject, mend: Mend, *, say: Callable[[str], None] = lambda line: None) -> BudgetedPlan:
    """The plan that a recipe's `plan.budget` asks for, where its trunk is the trained network.

    Where only the loss or the accuracy is limited, the candidate of the fewest multiply-accumulates is sought.

    Args:
        subject: the network and what is asked; its scores of weights play no part.
        mend: how a task starts without some units.
        say: takes one line of progress.

    Raises:
        PlanError: there is no budget, a latency is limited that nothing measures, measuring takes too many passes, or the limits cannot be reached.
    """
    section, model, graph, budget = subject.section, subject.model, subject.graph, subject.budget
    mend_free = partial(mend, free=free_layers(section, model, graph))
    examiner = MendedExaminer(
        model, graph, subject.examples, subject.loss, mend=mend_free, max_code=subject.max_code, unit_scores=subject.unit_scores
    )
    table = measure_options(subject, examiner, {})
    say(f"measured {sum(map(len, table.groups.values()))} numbers of units")
    costs = CostModel(graph, table, own_layers(section, examiner))
    whole = choose(examiner, costs, budget, fewest="macs", say=say)
    plan = _plan(subject, costs.candidate(whole.solution.choice).units, costs.own)
    return BudgetedPlan(plan, measured_record(budget, table, whole, examiner.passes, costs.own))


class MendedExaminer:
    """Measures candidates that lose units, one mending and one forward pass each; norms keep the trunk's statistics, as in the task."""

    def __init__(
        self,
        model: nn.Module,
        graph: ModelGraph,
        examples: tuple[torch.Tensor, torch.Tensor],
        loss: Loss,
        *,
        mend: Callable[[Mapping[str, NDArray[np.bool_]]], nn.Module],
        max_code: int,
        unit_scores: Scores | None = None,
        batch_size: int = 256,
    ) -> None:
        """An examiner; the model is in evaluation mode and left as it is, other arguments are those of `candidate.Examiner`, and the mending."""
        self.model, self.graph, self.loss, self.mend, self.max_code = model, graph, loss, mend, max_code
        self.passes = 0
        self._batches = list(zip(torch.split(examples[0], batch_size), torch.split(examples[1], batch_size), strict=True))
        self._weights = magnitude.weight_scores(model, graph)
        self._scores = dict(magnitude.score(model, graph) if unit_scores is None else unit_scores)

    def answers(self, candidate: Candidate | None = None) -> Answers:
        """What the network without the units that the candidate removes answers, mended.

        Raises:
            PlanError: the loss does not give one number per example, or one is not finite.
        """
        masks = masks_of(self.graph, self._scores, candidate.units) if candidate is not None else {}
        self.passes += 1
        return answers_of(self.mend(masks) if masks else self.model, self._batches, self.loss)

    def size_bits(self, name: str, option: LayerOption) -> float:
        """Entropy of the mask and of the codes that a layer of the trunk would have as the task's own, in bits."""
        weight = self.model.get_parameter(f"{name}.weight").detach().float().cpu().numpy()
        return code_weight(weight, self._weights[name], option, self.max_code).bits(option)


def _plan(subject: PlanSubject, units: Mapping[str, int], own: Mapping[str, OwnLayer]) -> CompressionPlan:
    """Own layers as codes, all others shared where no override says otherwise."""
    section, graph = subject.section, subject.graph
    sizes = {group.name: group.size for group in graph.groups}
    shrunk = {name for name, keep in units.items() if keep < sizes[name]}
    layers = []
    for record in graph.layers:
        if record.name == graph.head:
            continue
        owned = record.name in own and own[record.name].owned(shrunk)
        layers.append(layer_plan(section, record.name, "codes" if owned else "shared"))
    groups = tuple(GroupPlan(name, keep, sizes[name]) for name, keep in units.items() if keep < sizes[name])
    return CompressionPlan(graph.fingerprint, subject.max_code, subject.trunk_bit_width, tuple(layers), groups)
