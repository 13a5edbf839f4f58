"""Intervals of a few seeds against a limit, beside scipy's Student's t."""

import pytest
from harness.judging import STUDENT_T, interval, is_above, is_below
from harness.statistics import spread


def test_an_interval_by_hand():
    low, high = interval(spread([1.0, 2.0, 3.0]))
    assert (low, high) == pytest.approx((2 - 4.3027 / 3**0.5, 2 + 4.3027 / 3**0.5))


def test_the_table_is_students():
    stats = pytest.importorskip("scipy.stats", reason="scipy comes with scikit-learn")
    assert STUDENT_T == pytest.approx([stats.t.ppf(0.975, degrees) for degrees in range(1, len(STUDENT_T) + 1)], abs=1e-4)


def test_more_seeds_than_the_table_has_keep_its_last_value():
    low, high = interval(spread([0.0, 1.0] * 10))
    assert high - low == pytest.approx(2 * STUDENT_T[-1] * spread([0.0, 1.0] * 10).deviation / 20**0.5)


@pytest.mark.parametrize(
    ("values", "above", "below"),
    [
        ([0.7, -0.5, 0.01], "not distinguishable", "not distinguishable"),
        ([1.0, 1.1, 1.2], "holds", "does not hold"),
        ([-1.0, -1.1, -1.2], "does not hold", "holds"),
        ([0.0, 0.0, 0.0], "not distinguishable", "not distinguishable"),
        ([5.0, -4.0], "holds", "does not hold"),
        ([-0.1], "does not hold", "holds"),
    ],
)
def test_which_side_of_zero(values, above, below):
    assert (is_above(spread(values), 0), is_below(spread(values), 0)) == (above, below)
    shifted = spread([value + 3 for value in values])
    assert (is_above(shifted, 3), is_below(shifted, 3)) == (above, below)
