"""A plan under a budget: measured sensitivity, the knapsack's choice, and the whole candidate measured again.

Limits of bytes, multiply-accumulates and latency are kept exactly, at the least summed divergence of the answers (`sensitivity.py`). What single
options change does not add up exactly, so a limit on the loss or the accuracy is checked on the whole candidate: where bytes are not limited,
bisection finds the fewest bytes at which it holds (one standard error above the mean, as for bit widths), and the best candidate that held is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from tsn_toolkit.contracts import CompressionPlan, GroupPlan, LayerPlan, ModelGraph
from tsn_toolkit.errors import PlanError
from tsn_toolkit.numerics.paired import paired_difference
from tsn_toolkit.plan.candidate import Candidate, Examiner, Measuring
from tsn_toolkit.plan.cost_model import RESOURCES, CostModel
from tsn_toolkit.plan.macs import macs_after
from tsn_toolkit.plan.measured import WholeCandidate, measured_record
from tsn_toolkit.plan.options import layer_options, measure_options
from tsn_toolkit.plan.sensitivity import change
from tsn_toolkit.plan.settings import layer_plan
from tsn_toolkit.plan.solve import Solution, solve
from tsn_toolkit.plan.subject import PlanSubject
from tsn_toolkit.recipe.schema import BudgetSection

BISECTIONS = 8
"""Whole candidates that are measured for a limit on the loss or the accuracy, besides the first."""


@dataclass(frozen=True)
class BudgetedPlan:
    """The plan, and what was measured for it as plain data, the `measured` key of its file."""

    plan: CompressionPlan
    measured: dict[str, Any]


def plan_under_budget(subject: PlanSubject, *, say: Callable[[str], None] = lambda line: None) -> BudgetedPlan:
    """The plan that a recipe's `plan.budget` asks for.

    Args:
        subject: the network and what is asked.
        say: takes one line of progress.

    Raises:
        PlanError: there is no budget, a latency is limited that nothing measures, measuring takes too many passes, or the limits cannot be reached.
    """
    budget = subject.budget
    examiner = Examiner(
        subject.model,
        subject.graph,
        subject.examples,
        subject.loss,
        max_code=subject.max_code,
        unit_scores=subject.unit_scores,
        weight_scores=subject.weight_scores,
    )
    table = measure_options(subject, examiner, layer_options(subject))
    say(f"measured {sum(map(len, table.layers.values()))} layer options and {sum(map(len, table.groups.values()))} numbers of units")
    costs = CostModel(subject.graph, table)
    whole = choose(examiner, costs, budget, say=say)
    plan = plan_of(subject, costs.candidate(whole.solution.choice))
    return BudgetedPlan(plan, measured_record(budget, table, whole, examiner.passes))


def choose(
    examiner: Measuring, model: CostModel, budget: BudgetSection, *, fewest: str = "size_bytes", say: Callable[[str], None] = lambda line: None
) -> WholeCandidate:
    """The best candidate that holds all limits, measured as a whole.

    Args:
        examiner: measures whole candidates.
        model: of the options.
        budget: with the limits.
        fewest: resource of which the least is sought where only the loss or the accuracy limits it.
        say: takes one line of progress.

    Raises:
        PlanError: there is none; names the least that was reached.
    """
    limits = resource_limits(budget, model.graph)
    best = _measured(examiner, model, solve(model, limits))
    say(_line(best))
    if not holds(best, budget):
        raise PlanError(_too_much(best, budget, limits))
    if fewest in limits or (budget.max_loss_increase is None and budget.max_accuracy_drop is None):
        return best
    resource = RESOURCES.index(fewest)
    low, high = float(model.total(model.least(resource))[resource]), float(best.solution.costs[resource])
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        try:
            found = _measured(examiner, model, solve(model, {**limits, fewest: middle}))
        except PlanError:  # so little is out of reach under the other limits
            low = middle
            continue
        say(_line(found))
        if holds(found, budget):
            best, high = found, float(found.solution.costs[resource])
        else:
            low = middle
    return replace(best, bisected=fewest)


def resource_limits(budget: BudgetSection, graph: ModelGraph) -> dict[str, float]:
    """Resource -> limit, of those that the budget names."""
    given = {
        "size_bytes": budget.size_bytes,
        "macs": None if budget.macs_kept is None else budget.macs_kept * graph.macs,
        "latency_ms": budget.latency_ms,
    }
    return {name: float(value) for name, value in given.items() if value is not None}


def holds(candidate: WholeCandidate, budget: BudgetSection) -> bool:
    """Whether a measured candidate keeps the limits on loss and accuracy, one standard error above the mean."""
    loss_holds = budget.max_loss_increase is None or candidate.change.loss.upper <= budget.max_loss_increase
    return loss_holds and (budget.max_accuracy_drop is None or candidate.accuracy_drop.upper <= budget.max_accuracy_drop)


def plan_of(subject: PlanSubject, candidate: Candidate) -> CompressionPlan:
    """The plan of a candidate; layers of another encoding are as the section says."""
    section, graph = subject.section, subject.graph
    sizes = {group.name: group.size for group in graph.groups}
    layers = []
    for record in graph.layers:
        if record.name == graph.head:
            continue
        if (option := candidate.layers.get(record.name)) is not None:
            layers.append(LayerPlan(record.name, "codes", option.density, option.granularity, option.bit_width))
            continue
        layers.append(layer_plan(section, record.name, section.encoding))
    groups = tuple(GroupPlan(name, keep, sizes[name]) for name, keep in candidate.units.items() if keep < sizes[name])
    return CompressionPlan(graph.fingerprint, subject.max_code, subject.trunk_bit_width, tuple(layers), groups)


def _measured(examiner: Measuring, model: CostModel, solution: Solution) -> WholeCandidate:
    """A solution with its whole network measured; its multiply-accumulates are counted from the graph."""
    candidate = model.candidate(solution.choice)
    answers = examiner.answers(candidate)
    counted = macs_after(model.graph, candidate.units)
    assert abs(counted - solution.costs[1]) <= 1e-6 * model.graph.macs, "the cost model counts other multiply-accumulates than the graph"
    whole = model.table.whole
    return WholeCandidate(solution, change(whole, answers), paired_difference(whole.correct, answers.correct))


def _line(candidate: WholeCandidate) -> str:
    change, solution = candidate.change, candidate.solution
    return (
        f"whole candidate: {solution.costs[0]:.0f} bytes, loss {change.loss}, divergence {change.divergence.mean:.4f}, predicted "
        f"{solution.divergence:.4f}"
    )


def _too_much(candidate: WholeCandidate, budget: BudgetSection, limits: Mapping[str, float]) -> str:
    """Why even the candidate of the least loss does not hold."""
    asked = [
        f"`{key}` is {limit:g}, the best candidate {what} {found.mean:.4f} (standard error {found.standard_error:.4f})"
        for key, limit, what, found in (
            ("max_loss_increase", budget.max_loss_increase, "raises the loss by", candidate.change.loss),
            ("max_accuracy_drop", budget.max_accuracy_drop, "loses accuracy of", candidate.accuracy_drop),
        )
        if limit is not None and found.upper > limit
    ]
    held = ", ".join(f"{name} {value:g}" for name, value in limits.items()) or "the highest density, bit width and number of units among its options"
    count = candidate.change.loss.count
    return (
        f"The budget cannot be reached: {'; '.join(asked)}, which must hold one standard error above the mean on {count} examples. "
        f"What holds it: {held}. Raise one of the limits, or measure on more examples."
    )
