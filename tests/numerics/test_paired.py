"""Paired differences: a hand-computed case, what cancels, and what is refused."""

from math import inf

import numpy as np
import pytest

from tsn_toolkit.numerics.errors import NumericsError
from tsn_toolkit.numerics.paired import paired_difference


def test_by_hand():
    found = paired_difference([2.0, 4.0, 3.0], [1.0, 1.0, 1.0])  # differences 1, 3, 2
    assert (found.mean, found.count) == (2.0, 3)
    assert found.standard_error == pytest.approx(1 / 3**0.5)
    assert found.upper == found.mean + found.standard_error
    assert str(found) == "+2.0000 (standard error 0.5774)"


def test_what_examples_share_cancels():
    before = np.random.default_rng(0).normal(0, 1000, 50)
    found = paired_difference(before + 0.25, before)
    assert found.mean == pytest.approx(0.25) and found.standard_error < 1e-9


def test_one_example_says_nothing_about_its_spread():
    assert paired_difference([1.0], [0.0]).standard_error == inf


@pytest.mark.parametrize(
    ("after", "before", "message"),
    [([], [], "got 0 and 0"), ([1.0], [1.0, 2.0], "got 1 and 2"), ([1.0, np.nan], [1.0, 1.0], "got a difference of nan")],
)
def test_what_cannot_be_compared(after, before, message):
    with pytest.raises(NumericsError, match=message):
        paired_difference(after, before)
