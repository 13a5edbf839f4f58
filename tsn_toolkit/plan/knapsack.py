"""The multiple-choice knapsack: one option of every item, the least summed value, every summed cost within its limit.

    minimise  sum_i v[i, o_i]   subject to   sum_i c[i, o_i, r] <= L_r  for every limit r

Lagrangian relaxation (Sinha and Zoltners, "The multiple-choice knapsack problem", 1979): for multipliers m >= 0

    D(m) = sum_i min_o (v[i, o] + m . c[i, o]) - m . L  <=  optimum.

For one limit the best m is a slope of the items' lower convex hulls, found exactly by taking the hulls' steps in order; for several, one multiplier
after the other is set so, and subgradient steps follow. Depth-first branch and bound with D at the final multipliers then improves a greedy
candidate; it takes a bounded number of nodes, and what it has found so far is feasible at every moment.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf

import numpy as np
from numpy.typing import NDArray

from tsn_toolkit.errors import PlanError

NODES = 20_000
"""Nodes that the search may open."""
SWEEPS = 20
SUBGRADIENT_STEPS = 100
SLACK = 1e-9
"""Relative rounding error allowed at a limit."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Selection:
    """One option of every item, within all limits.

    Attributes:
        choice: index of the option of every item.
        value: summed value of the choice.
        bound: no choice within the limits has less; equal to `value` when the choice is proved the best.
        costs: float64 (limits,), summed.
        tight: per limit, whether it alone or with others forbids some single change to an option of less value.
    """

    choice: tuple[int, ...]
    value: float
    bound: float
    costs: Floats
    tight: tuple[bool, ...]


def select(values: Sequence[Floats], costs: Sequence[Floats], limits: Floats, *, nodes: int = NODES) -> Selection:
    """The best choice that the search finds.

    Args:
        values: per item float64 (options,), finite; the number of options may differ between items.
        costs: per item float64 (options, limits), finite; costs may be negative.
        limits: float64 (limits,), finite.
        nodes: of the search.

    Raises:
        PlanError: no choice is within the limits, or none was found.
    """
    best = select_or_none(values, costs, limits, nodes=nodes)
    if best is None:
        least = _text(least_costs(costs, len(limits)))
        raise PlanError(f"no choice of options is within the limits {_text(limits)}: each by itself can be brought down to {least}. Raise them.")
    return best


def select_or_none(values: Sequence[Floats], costs: Sequence[Floats], limits: Floats, *, nodes: int = NODES) -> Selection | None:
    """As `select`; None where no choice is within the limits, or none was found."""
    return next(iter(deque(improvements(values, costs, limits, nodes=nodes), maxlen=1)), None)


def improvements(values: Sequence[Floats], costs: Sequence[Floats], limits: Floats, *, nodes: int = NODES) -> Iterator[Selection]:
    """Ever better choices, arguments as in `select`; each is within the limits, and the last one is the answer. None: no choice was found."""
    problem = Problem(values, costs, limits)
    if (least_costs(costs, len(limits)) > problem.allowed).any():
        return
    multipliers = problem.best_multipliers()
    bound = problem.dual(multipliers)[0]
    best = problem.greedy(multipliers)
    if best is not None:
        yield problem.selection(best, bound)
    search = _Search(problem, multipliers, best, nodes)
    for best in search.run():
        yield problem.selection(best, bound)
    if best is not None and search.complete:
        yield problem.selection(best, inf)


def least_costs(costs: Sequence[Floats], limits: int) -> Floats:
    """Per limit the least summed cost of any choice, each limit by itself."""
    return np.sum([cost.min(axis=0) for cost in costs], axis=0, dtype=np.float64) if len(costs) else np.zeros(limits)


def hull_steps(values: Floats, costs: Floats) -> list[tuple[float, float]]:
    """Steps down the lower convex hull of (cost, value) points, from the least value to the least cost: (value per cost, cost saved), ascending.

    >>> hull_steps(np.array([0.0, 1.0, 1.9, 4.0]), np.array([10.0, 6.0, 5.0, 2.0]))
    [(0.25, 4.0), (0.75, 4.0)]
    """
    hull: list[tuple[float, float]] = []
    for cost, value in sorted(zip(costs.tolist(), values.tolist(), strict=True)):
        if hull and value >= hull[-1][1]:
            continue
        while len(hull) > 1 and (hull[-2][1] - hull[-1][1]) * (cost - hull[-1][0]) <= (hull[-1][1] - value) * (hull[-1][0] - hull[-2][0]):
            hull.pop()
        hull.append((cost, value))
    pairs = list(zip(hull, hull[1:], strict=False))
    return [((cheap[1] - dear[1]) / (dear[0] - cheap[0]), dear[0] - cheap[0]) for cheap, dear in reversed(pairs)]


class Problem:
    """The items as arrays padded to the same number of options; padding is never chosen."""

    def __init__(self, values: Sequence[Floats], costs: Sequence[Floats], limits: Floats) -> None:
        most = max((len(value) for value in values), default=0)
        self.limits = np.asarray(limits, dtype=np.float64)
        self.values = np.full((len(values), most), inf)
        self.costs = np.zeros((len(values), most, len(self.limits)))
        for row, (value, cost) in enumerate(zip(values, costs, strict=True)):
            self.values[row, : len(value)] = value
            self.costs[row, : len(value)] = cost
        self.allowed = self.limits + SLACK * np.maximum(np.abs(self.limits), np.abs(self.costs).max(axis=1, initial=0.0).sum(axis=0))
        self.rows = np.arange(len(values))
        spread = np.ptp(self.costs, axis=1).sum(axis=0)
        self.spread = np.where(spread > 0, spread, 1.0)

    def dual(self, multipliers: Floats) -> tuple[float, NDArray[np.intp]]:
        """D(multipliers), and the option of every item that attains it."""
        reduced = self.values + self.costs @ multipliers
        choice = reduced.argmin(axis=1)
        return float(reduced[self.rows, choice].sum() - multipliers @ self.limits), choice

    def total(self, choice: NDArray[np.intp]) -> Floats:
        summed: Floats = self.costs[self.rows, choice].sum(axis=0)
        return summed

    def best_multipliers(self) -> Floats:
        """Multipliers (limits,) with the largest D found: exact for one limit."""
        best = np.zeros(len(self.limits))
        for _ in range(SWEEPS if len(self.limits) > 1 else 1):
            before = best.copy()
            for limit in range(len(self.limits)):
                best = self._with_best(best, limit)
            if np.array_equal(before, best):
                break
        return self._subgradient(best) if len(self.limits) > 1 else best

    def _with_best(self, multipliers: Floats, limit: int) -> Floats:
        """The multipliers with the best one for `limit`, the others as they are."""
        others = multipliers.copy()
        others[limit] = 0.0
        values = self.values + self.costs @ others
        real = np.isfinite(self.values)
        steps = [step for row in self.rows for step in hull_steps(values[row, real[row]], self.costs[row, real[row], limit])]
        total = sum(_cost_of_least_value(values[row, real[row]], self.costs[row, real[row], limit]) for row in self.rows)
        for slope, saved in sorted(steps):
            if total <= self.allowed[limit]:
                break
            others[limit] = slope
            total -= saved
        return others

    def _subgradient(self, start: Floats) -> Floats:
        """The best multipliers met on steps along the violation, from `start`; each limit is scaled by its own costs."""
        spread = self.spread
        size = float(np.where(np.isfinite(self.values), self.values, 0.0).max(axis=1, initial=0.0).sum())
        best, current, (highest, choice) = start, start, self.dual(start)
        for step in range(1, SUBGRADIENT_STEPS + 1):
            violation = (self.total(choice) - self.limits) / spread
            current = np.maximum(current + 0.1 * size / step * violation / spread, 0.0)
            value, choice = self.dual(current)
            if value > highest:
                best, highest = current, value
        return best

    def greedy(self, multipliers: Floats) -> NDArray[np.intp] | None:
        """A choice within the limits near the relaxed one: first cheaper options, then better ones that fit. None where these steps reach none."""
        choice = self.dual(multipliers)[1].copy()
        while (excess := np.maximum(self.total(choice) - self.allowed, 0.0)).any():
            if not self.step_down_(choice, excess):
                return None
        while self.step_up_(choice):
            pass
        return choice

    def _changes(self, choice: NDArray[np.intp]) -> tuple[Floats, Floats]:
        """Value (items, options) and costs (items, options, limits) that every single change adds."""
        return self.values - self.values[self.rows, choice][:, None], self.costs - self.costs[self.rows, choice][:, None]

    def step_down_(self, choice: NDArray[np.intp], excess: Floats) -> bool:
        """Take the change with the least value per excess removed, each limit in units of its costs' spread; False if none removes any."""
        added, costs = self._changes(choice)
        removed = ((excess - np.maximum(self.total(choice) + costs - self.allowed, 0.0)) / self.spread).sum(axis=2)
        removed[~np.isfinite(added)] = 0.0
        useful = removed > 1e-12
        if not useful.any():
            return False
        price = np.where(useful, np.maximum(added, 0.0) / np.where(useful, removed, 1.0), inf)
        row, option = np.unravel_index(int(np.lexsort((-removed.ravel(), price.ravel()))[0]), price.shape)
        choice[row] = option
        return True

    def step_up_(self, choice: NDArray[np.intp]) -> bool:
        """Take the single change within the limits that lowers the value most; False if there is none."""
        added, costs = self._changes(choice)
        fits = (self.total(choice) + costs <= self.allowed).all(axis=2)
        gain = np.where(fits, -added, 0.0)
        row, option = np.unravel_index(int(gain.argmax()), gain.shape) if gain.size else (0, 0)
        if not gain.size or gain[row, option] <= 0:
            return False
        choice[row] = option
        return True

    def selection(self, choice: NDArray[np.intp], bound: float) -> Selection:
        """A choice with its numbers; `bound` inf says that it is the best."""
        value = float(self.values[self.rows, choice].sum())
        added, costs = self._changes(choice)
        over = self.total(choice) + costs > self.allowed
        tight = (over & (added < 0)[:, :, None]).any(axis=(0, 1))
        return Selection(tuple(choice.tolist()), value, min(bound, value), self.total(choice), tuple(tight.tolist()))


class _Search:
    """Depth-first branch and bound; at every item options come in order of reduced value, so that the first that is too dear ends the item."""

    def __init__(self, problem: Problem, multipliers: Floats, best: NDArray[np.intp] | None, nodes: int) -> None:
        self.problem, self.nodes, self.complete = problem, nodes, False
        self.best_value = inf if best is None else float(problem.values[problem.rows, best].sum())
        reduced = problem.values + problem.costs @ multipliers
        self.order = sorted(problem.rows.tolist(), key=lambda row: -float(np.ptp(problem.costs[row], axis=0) @ multipliers))
        self.options = [
            [
                (float(reduced[row, option]), float(problem.values[row, option]), problem.costs[row, option].tolist(), option)
                for option in np.argsort(reduced[row], kind="stable").tolist()
                if np.isfinite(problem.values[row, option])
            ]
            for row in self.order
        ]
        self.least_reduced, self.least_cost = [-float(multipliers @ problem.limits)], [[0.0] * len(problem.limits)]
        for options in reversed(self.options):
            self.least_reduced.append(self.least_reduced[-1] + options[0][0])
            self.least_cost.append([rest + min(option[2][r] for option in options) for r, rest in enumerate(self.least_cost[-1])])
        self.least_reduced.reverse()
        self.least_cost.reverse()

    def run(self) -> Iterator[NDArray[np.intp]]:
        """Every better choice as it is found; `complete` is set when the search was not cut short."""
        allowed = self.problem.allowed.tolist()
        stack = [(iter(self.options[0]), 0.0, 0.0, [0.0] * len(allowed))] if self.options else []
        taken: list[int] = []
        opened = 0
        while stack:
            options, reduced, value, cost = stack[-1]
            del taken[len(stack) - 1 :]
            if (entry := next(options, None)) is None or reduced + entry[0] + self.least_reduced[len(stack)] >= self._cut():
                stack.pop()
                continue
            spent = [a + b for a, b in zip(cost, entry[2], strict=True)]
            if any(a + b > limit for a, b, limit in zip(spent, self.least_cost[len(stack)], allowed, strict=True)):
                continue
            opened += 1
            if opened > self.nodes:
                return
            taken.append(entry[3])
            if len(stack) < len(self.options):
                stack.append((iter(self.options[len(stack)]), reduced + entry[0], value + entry[1], spent))
            elif value + entry[1] < self.best_value:
                self.best_value = value + entry[1]
                yield self._in_order(taken)
        self.complete = True

    def _cut(self) -> float:
        """A node whose relaxed value reaches this cannot hold a better choice."""
        return self.best_value - 1e-12 * abs(self.best_value) if self.best_value < inf else inf

    def _in_order(self, taken: Sequence[int]) -> NDArray[np.intp]:
        choice = np.zeros(len(taken), dtype=np.intp)
        choice[self.order] = taken
        return choice


def _cost_of_least_value(values: Floats, costs: Floats) -> float:
    """The least cost among the options of the least value: where the hull begins."""
    return float(costs[values == values.min()].min())


def _text(numbers: Floats) -> str:
    return ", ".join(f"{number:g}" for number in numbers)
