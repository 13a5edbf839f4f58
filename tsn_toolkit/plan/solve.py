"""The choice of options with the least summed divergence within limits on bytes, multiply-accumulates and latency.

Costs of layers and groups multiply (`cost_model.py`), so the problem is solved as a sequence of multiple-choice knapsacks (`knapsack.py`), each with
the costs of single changes around the best choice so far; what breaks a limit is stepped down, what fits is stepped up, with exact costs. The first
knapsack, around the largest costs, relaxes the problem: its bound is a bound of the whole. Without groups its solution is the answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tsn_toolkit.errors import PlanError
from tsn_toolkit.plan.cost_model import RESOURCES, CostModel
from tsn_toolkit.plan.knapsack import Problem, select_or_none

ROUNDS = 6

Choice = NDArray[np.intp]


@dataclass(frozen=True)
class Solution:
    """A choice within the limits.

    Attributes:
        choice: option of every item.
        divergence: summed, measured option by option, nats.
        bound: no choice within the limits has a smaller sum.
        costs: float64 (3,), in the order of `RESOURCES`.
        binding: the limits that forbid some single change to an option of smaller divergence.
    """

    choice: Choice
    divergence: float
    bound: float
    costs: NDArray[np.float64]
    binding: tuple[str, ...]


def solve(model: CostModel, limits: Mapping[str, float]) -> Solution:
    """The best choice found, deterministic.

    Args:
        model: costs and divergences.
        limits: resource -> largest cost; those left out are free.

    Raises:
        PlanError: no choice is within the limits; names the least of every resource.
    """
    names = [name for name in RESOURCES if name in limits]
    used = [RESOURCES.index(name) for name in names]
    allowed = np.array([float(limits[name]) for name in names])
    candidates = [model.least(resource) for resource in used] or [model.largest()]
    best = next((polished for start in candidates if (polished := _polish(model, start, used, allowed)) is not None), None)
    bound, around = 0.0, model.largest()
    for number in range(ROUNDS):
        changes = [cost[:, used] for cost in model.differences(around)]
        selection = select_or_none(model.values, changes, allowed - model.total(around)[used])
        if selection is None:
            break
        if number == 0:
            bound = _bound(model, names, allowed) if set(names) - set(model.relaxing) else selection.bound
        found = _polish(model, np.array(selection.choice, dtype=np.intp), used, allowed)
        if found is None or np.array_equal(found, around):
            break
        around = found
        if best is None or model.divergence(found) < model.divergence(best):
            best = found
    if best is None:
        raise PlanError(_unreachable(model, names, used, limits))
    divergence = model.divergence(best)
    return Solution(best, divergence, min(bound, divergence), model.total(best), _binding(model, best, names, used, allowed))


def _bound(model: CostModel, names: list[str], allowed: NDArray[np.float64]) -> float:
    """The bound under those limits alone whose single changes relax the problem: fewer limits, so it holds under all of them."""
    kept = [number for number, name in enumerate(names) if name in model.relaxing]
    if not kept:
        return 0.0
    largest, used = model.largest(), [RESOURCES.index(names[number]) for number in kept]
    relaxed = select_or_none(model.values, [cost[:, used] for cost in model.differences(largest)], allowed[kept] - model.total(largest)[used])
    return 0.0 if relaxed is None else relaxed.bound


def _polish(model: CostModel, choice: Choice, used: list[int], allowed: NDArray[np.float64]) -> Choice | None:
    """The choice stepped down until it is within the limits, then up while it fits; None where stepping down reaches no such choice."""
    choice = choice.copy()
    while (excess := np.maximum((around := _around(model, choice, used, allowed)).total(choice) - around.allowed, 0.0)).any():
        if not around.step_down_(choice, excess):
            return None
    while _around(model, choice, used, allowed).step_up_(choice):
        pass
    return choice


def _around(model: CostModel, choice: Choice, used: list[int], allowed: NDArray[np.float64]) -> Problem:
    """The knapsack whose costs are those of single changes of a choice."""
    return Problem(model.values, [cost[:, used] for cost in model.differences(choice)], allowed - model.total(choice)[used])


def _binding(model: CostModel, choice: Choice, names: list[str], used: list[int], allowed: NDArray[np.float64]) -> tuple[str, ...]:
    tight = _around(model, choice, used, allowed).selection(choice, 0.0).tight
    return tuple(name for name, binds in zip(names, tight, strict=True) if binds)


def _unreachable(model: CostModel, names: list[str], used: list[int], limits: Mapping[str, float]) -> str:
    """What the least is, limit by limit, and what holds it."""
    sentences = []
    for name, resource in zip(names, used, strict=True):
        least = float(model.total(model.least(resource))[resource])
        sentences.append(f"`{name}` is {limits[name]:g}, the least that can be reached {least:.6g}" + (" (too low)" if least > limits[name] else ""))
    frozen = [group.name for group in model.graph.groups if group.frozen]
    held = [f"{model.table.constant_bytes} bytes of head, norms, biases and free parameters stay"] if "size_bytes" in names else []
    held += [f"frozen groups keep all units: {', '.join(frozen)}"] if frozen else []
    held += ["no group may lose units"] if not any(len(keeps) > 1 for keeps in model.table.groups.values()) else []
    return (
        f"The budget cannot be reached: {'; '.join(sentences)}. What holds it: the options of `plan.budget` (lowest density, bit width and number of "
        f"units){''.join(f'; {reason}' for reason in held)}. Raise the limit, or allow lower options."
    )
