"""Multipliers and shifts against exact fractions."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tsn_toolkit.errors import ExportError
from tsn_toolkit.export.c.fixed_point import fixed_point

FACTORS = st.floats(2.0**-32, 2.0**28).flatmap(lambda value: st.sampled_from([value, -value]))


@given(FACTORS)
def test_a_factor_is_kept_to_31_bits(factor):
    found = fixed_point([factor], where="test")
    multiplier, shift = int(found.multipliers[0]), int(found.shifts[0])
    assert 2**30 <= abs(multiplier) < 2**31
    assert 1 <= shift <= 62
    assert abs(Fraction(multiplier, 2**shift) - Fraction(factor)) <= abs(Fraction(factor)) / 2**31


@given(st.lists(FACTORS, min_size=2, max_size=2))
def test_a_common_shift_fits_the_largest_factor(factors):
    found = fixed_point(factors, where="test", common_shift=True)
    assert found.shifts[0] == found.shifts[1]
    largest = max(abs(Fraction(factor)) for factor in factors)
    for multiplier, shift, factor in zip(found.multipliers.tolist(), found.shifts.tolist(), factors):
        assert abs(Fraction(multiplier, 2**shift) - Fraction(factor)) <= largest / 2**31


def test_a_mantissa_that_rounds_up_to_one_takes_one_shift_less():
    found = fixed_point([1 - 2.0**-40, 0.5], where="test")
    assert found.multipliers.tolist() == [2**30, 2**30]
    assert found.shifts.tolist() == [30, 31]
    both = fixed_point([1 - 2.0**-40, 0.5], where="test", common_shift=True)
    assert both.multipliers.tolist() == [2**30, 2**29]
    assert both.shifts.tolist() == [30, 30]


def test_nothing_and_next_to_nothing():
    found = fixed_point([0.0, 2.0**-70, -(2.0**-40)], where="test")
    assert found.multipliers.tolist() == [0, 0, -(2**22)]
    assert found.multipliers.dtype == np.int32
    assert found.shifts.tolist() == [62, 62, 62]


@pytest.mark.parametrize("factor", [float("nan"), float("inf"), 2.0**29])
def test_a_factor_beyond_the_limits_is_named(factor):
    with pytest.raises(ExportError, match=rf"layer `conv`.*got {factor}"):
        fixed_point([0.5, factor], where="layer `conv`")
