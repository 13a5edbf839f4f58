"""What was measured for a plan, as plain data: the `measured` key of the plan's file. It is a record; a plan is run without it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tsn_toolkit.numerics.paired import PairedDifference
from tsn_toolkit.plan.cost_model import RESOURCES
from tsn_toolkit.plan.own_layers import OwnLayer
from tsn_toolkit.plan.sensitivity import Change, LayerEntry, Sensitivity, UnitEntry
from tsn_toolkit.plan.solve import Solution
from tsn_toolkit.recipe.schema import BudgetSection

KEYS = ("budget", "binding", "predicted", "whole", "passes", "layers", "groups", "own")
DIGITS = 6


@dataclass(frozen=True)
class WholeCandidate:
    """A solution, measured as a whole on the examples.

    Attributes:
        solution: what the knapsack found.
        change: of the answers.
        accuracy_drop: fall of the top-1, a fraction.
        bisected: the resource of which the least was sought until the loss or the accuracy broke its limit, or "".
    """

    solution: Solution
    change: Change
    accuracy_drop: PairedDifference
    bisected: str = ""


def measured_record(
    budget: BudgetSection, table: Sensitivity, whole: WholeCandidate, passes: int, own: Mapping[str, OwnLayer] | None = None
) -> dict[str, Any]:
    """The record of one plan.

    Returns:
        `budget`: as asked for; `binding`: the limits that forbade a smaller divergence; `predicted`: costs, summed divergence and its lower bound;
        `whole`: the candidate measured as a whole, beside the network as it is; `passes`: forward passes in all; `layers`, `groups`: the table, one
        line per option with its costs, latencies included, and the divergence and increase of the loss when it alone is taken; over a trained trunk
        `own`: the layers that become the task's own when they lose inputs, and their bytes in full.
    """
    found = whole.solution
    binding = list(found.binding)
    if whole.bisected:
        on_loss = [key for key in ("max_loss_increase", "max_accuracy_drop") if getattr(budget, key) is not None]
        binding = [name for name in binding if name != whole.bisected] + on_loss
    size, macs, latency = found.costs.tolist()
    costs = dict(zip(RESOURCES, (round(size), round(macs), round(latency, 3)), strict=True))
    if table.latency_ms is None:
        del costs["latency_ms"]
    return {
        "budget": budget.model_dump(exclude_none=True, mode="json"),
        "binding": binding,
        "predicted": {**costs, "divergence": round(found.divergence, DIGITS), "lower_bound": round(found.bound, DIGITS)},
        "whole": {
            "examples": whole.change.loss.count,
            "loss_before": round(table.loss, DIGITS),
            "accuracy_before": round(table.accuracy, DIGITS),
            **_change(whole.change),
            **{f"accuracy_{key}": value for key, value in _numbers("drop", whole.accuracy_drop).items()},
        },
        "passes": passes,
        "layers": {name: [_layer_line(entry) for entry in entries] for name, entries in table.layers.items()},
        "groups": {name: [_unit_line(entry) for entry in entries] for name, entries in table.groups.items()},
        **({"own": {name: [_own_line(layer)] for name, layer in own.items()}} if own else {}),
    }


def measured_problems(content: Any) -> list[str]:
    """What is wrong with the form of a record; its numbers are not used."""
    if not isinstance(content, dict):
        return [f"`measured` must be a mapping, got {type(content).__name__}: it is written by the planner, remove it or leave it as it was"]
    unknown = [str(key) for key in content if key not in KEYS]
    return [f"`measured` holds unknown keys, got {', '.join(unknown)}; known: {', '.join(KEYS)}"] if unknown else []


def _own_line(layer: OwnLayer) -> dict[str, Any]:
    return {**vars(layer.option), "bytes": round(layer.slot_bytes + layer.fixed_bytes)}


def _layer_line(entry: LayerEntry) -> dict[str, Any]:
    return {**vars(entry.option), "bytes": round(entry.slot_bytes + entry.fixed_bytes), **_change(entry.change)}


def _unit_line(entry: UnitEntry) -> dict[str, Any]:
    latency = {} if entry.latency_ms is None else {"latency_ms": entry.latency_ms}
    return {"keep": entry.keep, "macs": entry.macs, **latency, **_change(entry.change)}


def _change(change: Change) -> dict[str, float]:
    return {"divergence": round(change.divergence.mean, DIGITS), **_numbers("loss_increase", change.loss)}


def _numbers(key: str, difference: PairedDifference) -> dict[str, float]:
    return {key: round(difference.mean, DIGITS), "standard_error": round(difference.standard_error, DIGITS)}
