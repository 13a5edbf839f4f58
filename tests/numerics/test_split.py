"""The best split of bins against every possible split and against the plain dynamic program."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsn_toolkit.numerics.split import best_split


def error_of(values: np.ndarray, borders: np.ndarray) -> float:
    return float(sum(((run - run.mean()) ** 2).sum() for run in np.split(values, borders[1:-1])))


def split_values(values: np.ndarray, runs: int) -> np.ndarray:
    return best_split(np.ones(len(values)), values, values**2, runs)


@given(st.lists(st.integers(-50, 50), min_size=1, max_size=9), st.integers(1, 4))
@settings(max_examples=100, deadline=None)
def test_no_split_of_few_values_is_better(values, runs):
    ordered, runs = np.sort(np.array(values, float)), min(runs, len(values))
    best = min(error_of(ordered, np.array([0, *cuts, len(ordered)])) for cuts in combinations(range(1, len(ordered)), runs - 1))
    borders = split_values(ordered, runs)
    assert (borders[0], borders[-1], len(borders)) == (0, len(ordered), runs + 1) and (np.diff(borders) > 0).all()
    assert error_of(ordered, borders) == pytest.approx(best, abs=1e-6)


@pytest.mark.parametrize("size", [31, 32, 33, 64, 150])
@pytest.mark.parametrize("runs", [1, 2, 5, 16])
def test_equals_the_plain_dynamic_program_over_several_blocks(size, runs):
    values = np.sort(np.random.default_rng(size + runs).standard_t(2, size=size))
    cost = {(0, 0): 0.0}
    for count in range(1, runs + 1):
        for end in range(count, size + 1):
            cost[count, end] = min(
                cost[count - 1, i] + ((values[i:end] - values[i:end].mean()) ** 2).sum() for i in range(end) if (count - 1, i) in cost
            )
    assert error_of(values, split_values(values, runs)) == pytest.approx(cost[runs, size], rel=1e-9, abs=1e-9)


def test_bins_weigh_as_much_as_their_values():
    # Three bins {0 x 10}, {1}, {5, 6}: one border. 0..0,1 | 5,6 costs 10/11 + 1/2; 0..0 | 1,5,6 costs 14.
    borders = best_split(np.array([10.0, 1, 2]), np.array([0.0, 1, 11]), np.array([0.0, 1, 61]), 2)
    assert borders.tolist() == [0, 2, 3]
