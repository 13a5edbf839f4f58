"""What planning under a budget looks at: the trained network, its examples, and what is asked of the plan."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from tsn_toolkit.contracts import ModelGraph
from tsn_toolkit.errors import PlanError
from tsn_toolkit.plan.answers import Loss
from tsn_toolkit.plan.candidate import Scores
from tsn_toolkit.plan.sensitivity import Latency
from tsn_toolkit.recipe.schema import BudgetSection, PlanSection


@dataclass(frozen=True, eq=False)
class PlanSubject:
    """A network for which a plan under a budget is sought.

    Attributes:
        section: of the recipe, with a budget; overrides of layers and units narrow the options.
        graph: of the model.
        model: trained; left as it is.
        validation: inputs (n, ...) as the model takes them, labels int64 (n,).
        loss: (logits, labels) -> one loss per example (n,).
        trunk_bit_width: of the plan.
        max_code: largest |q|.
        channel_multiple: numbers of units are rounded up to a multiple of it.
        classes: of a task, whose head counts towards its bytes; None: those of the model.
        latency_ms: milliseconds of the network with these numbers of units; needed for `budget.latency_ms`.
        unit_scores: group name -> score per unit; None: magnitude.
        weight_scores: layer name -> score per weight; None: magnitude.
        inherits_free_parameters: tasks take those of the trunk, which count towards no task's bytes.
    """

    section: PlanSection
    graph: ModelGraph
    model: nn.Module
    validation: tuple[torch.Tensor, torch.Tensor]
    loss: Loss
    trunk_bit_width: int
    max_code: int
    channel_multiple: int = 1
    classes: int | None = None
    latency_ms: Latency | None = None
    unit_scores: Scores | None = None
    weight_scores: Scores | None = None
    inherits_free_parameters: bool = False

    @property
    def budget(self) -> BudgetSection:
        """The section's budget.

        Raises:
            PlanError: there is none, or a latency is limited that nothing measures.
        """
        budget = self.section.budget
        if budget is None:
            raise PlanError("`plan.budget` is not given. Set at least one limit, for example `plan.budget: {size_bytes: 100000}`.")
        if budget.latency_ms is not None and self.latency_ms is None:
            raise PlanError(
                f"`plan.budget.latency_ms` is {budget.latency_ms:g}, but nothing measures a latency here. Name a target or cap `macs_kept`."
            )
        return budget

    @property
    def examples(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Those of the validation data that the budget asks for, evenly spaced."""
        return evenly(self.validation, self.budget.examples)


def evenly(examples: tuple[torch.Tensor, torch.Tensor], count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """At most `count` of the examples, evenly spaced."""
    x, y = examples
    places = torch.from_numpy(np.linspace(0, len(y) - 1, min(count, len(y))).round().astype(np.int64)).to(y.device)
    return x[places], y[places]
