"""The multiple-choice knapsack against all choices tried one by one."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsn_toolkit.errors import PlanError
from tsn_toolkit.plan.knapsack import hull_steps, improvements, select

numbers = st.one_of(st.integers(-3, 12).map(float), st.floats(0, 5, allow_nan=False, width=16))


@st.composite
def problems(draw):
    limits = draw(st.integers(1, 3))
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=5))
    values = [np.array([draw(numbers) for _ in range(size)]) for size in sizes]
    costs = [np.array([[draw(numbers) for _ in range(limits)] for _ in range(size)]) for size in sizes]
    return values, costs, np.array([draw(st.floats(-5, 30, width=16)) for _ in range(limits)])


def brute_force(values, costs, limits):
    """The least value of all choices within the limits, or None."""
    found = None
    for choice in product(*(range(len(value)) for value in values)):
        total = sum(cost[option] for cost, option in zip(costs, choice, strict=True))
        value = sum(value[option] for value, option in zip(values, choice, strict=True))
        if (total <= limits + 1e-9).all() and (found is None or value < found):
            found = value
    return found


@settings(max_examples=150, deadline=None)
@given(problems())
def test_the_search_finds_what_trying_everything_finds(problem):
    values, costs, limits = problem
    least = brute_force(values, costs, limits)
    if least is None:
        with pytest.raises(PlanError, match="no choice of options is within the limits"):
            select(values, costs, limits)
        return
    found = select(values, costs, limits)
    assert found.value == pytest.approx(least, abs=1e-7)
    assert found.bound == found.value
    assert found.value == pytest.approx(sum(value[option] for value, option in zip(values, found.choice, strict=True)))


@settings(max_examples=150, deadline=None)
@given(problems())
def test_every_candidate_is_feasible_and_no_bound_exceeds_the_optimum(problem):
    values, costs, limits = problem
    least = brute_force(values, costs, limits)
    last = np.inf
    for found in improvements(values, costs, limits, nodes=3):
        total = sum(cost[option] for cost, option in zip(costs, found.choice, strict=True))
        assert (total <= limits + 1e-6).all() and np.allclose(total, found.costs)
        assert found.bound <= least + 1e-7 and found.value >= least - 1e-7 and found.value <= last
        last = found.value


@settings(max_examples=100, deadline=None)
@given(problems())
def test_one_limit_has_the_bound_of_the_linear_program(problem):
    """The relaxed optimum by its definition: the largest dual value over all slopes between two options of one item."""
    values, costs, limits = problem
    costs, limits = [cost[:, :1] for cost in costs], limits[:1]
    first = next(iter(improvements(values, costs, limits, nodes=0)), None)
    if first is None:
        return
    slopes = {0.0}
    for value, cost in zip(values, costs, strict=True):
        for a, b in product(range(len(value)), repeat=2):
            if cost[a, 0] > cost[b, 0]:
                slopes.add(max(0.0, (value[b] - value[a]) / (cost[a, 0] - cost[b, 0])))
    dual = max(sum((v + s * c[:, 0]).min() for v, c in zip(values, costs, strict=True)) - s * limits[0] for s in slopes)
    assert first.bound == pytest.approx(min(dual, first.value), abs=1e-6)


@pytest.mark.parametrize("limits", [1, 2, 3])
def test_the_search_goes_on_where_greedy_steps_end(limits):
    """Random problems with many near-equal choices: greedy steps alone miss the best of some, the search of none."""
    rng = np.random.default_rng(limits)
    missed = 0
    for _ in range(25):
        values = [rng.uniform(0, 1, 4) for _ in range(5)]
        costs = [rng.uniform(0, 1, (4, limits)) for _ in range(5)]
        allowed = rng.uniform(1.8, 2.5, limits)
        choices = np.array(list(product(range(4), repeat=5)))
        total = sum(cost[choices[:, item]] for item, cost in enumerate(costs))
        value = sum(value[choices[:, item]] for item, value in enumerate(values))
        if not (fits := (total <= allowed).all(axis=1)).any():
            continue
        first, *_, last = [*improvements(values, costs, allowed, nodes=0), *improvements(values, costs, allowed)]
        assert last.value == pytest.approx(value[fits].min(), abs=1e-9) and last.bound == last.value
        missed += first.value > last.value + 1e-9
    assert missed


def test_by_hand():
    """Two items, 10 units of cost: (cost 6, value 1) with (4, 2) beats (8, 0) with (1, 5)."""
    values = [np.array([0.0, 1.0, 9.0]), np.array([0.0, 2.0, 5.0])]
    costs = [np.array([[8.0], [6.0], [1.0]]), np.array([[9.0], [4.0], [1.0]])]
    found = select(values, costs, np.array([10.0]))
    assert (found.choice, found.value, found.costs.tolist(), found.tight) == ((1, 1), 3.0, [10.0], (True,))
    free = select(values, costs, np.array([17.0]))
    assert (free.choice, free.value, free.tight) == ((0, 0), 0.0, (False,))
    assert hull_steps(values[1], costs[1][:, 0]) == [(0.4, 5.0), (1.0, 3.0)]


def test_the_limit_that_binds_is_named():
    values = [np.array([0.0, 1.0])]
    costs = [np.array([[5.0, 1.0], [1.0, 1.0]])]
    assert select(values, costs, np.array([3.0, 3.0])).tight == (True, False)
    assert select(values, np.array([costs[0][:, ::-1]]), np.array([3.0, 3.0])).tight == (False, True)


def test_a_large_problem_ends_near_its_bound_and_always_alike():
    """40 layers of 24 options with falling values: what is left of the node budget decides nothing."""
    rng = np.random.default_rng(0)
    costs = [np.sort(rng.uniform(1, 100, (24, 1)), axis=0)[::-1] * rng.uniform(0.2, 5) for _ in range(40)]
    values = [np.sort(rng.exponential(1, 24)) ** 2 for _ in range(40)]
    limit = np.array([0.4 * sum(float(cost.max()) for cost in costs)])
    found = select(values, costs, limit)
    assert found.costs[0] <= limit[0]
    assert 0 <= found.value - found.bound <= 0.01 * found.value
    assert select(values, costs, limit).choice == found.choice


def test_no_choice_says_what_can_be_reached():
    with pytest.raises(PlanError, match="limits 2: each by itself can be brought down to 3"):
        select([np.zeros(2), np.zeros(1)], [np.array([[1.0], [4.0]]), np.array([[2.0]])], np.array([2.0]))
