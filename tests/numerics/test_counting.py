"""Counts and groups against numpy's plain functions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsn_toolkit.numerics.counting import count_numbers, positions_by_number


@pytest.mark.parametrize("values", [1, 2, 8, 9, 54, 256])
@pytest.mark.parametrize("size", [0, 1, 1000, 65_536, 65_537])
def test_counts(values, size):
    numbers = np.random.default_rng(size + values).integers(0, values, size).astype(np.uint8)
    counts = count_numbers(numbers, values)
    assert counts.dtype == np.int64 and counts.tolist() == np.bincount(numbers, minlength=values).tolist()
    assert count_numbers(np.repeat(numbers, 2)[::2].reshape(-1, 1), values).tolist() == counts.tolist()


@given(st.lists(st.sampled_from([0, 0, 0, 0, 1, 2, 7, 255]), max_size=60))
@settings(max_examples=200, deadline=None)
def test_groups_are_ascending_and_complete(numbers):
    groups = positions_by_number(np.array(numbers, np.uint8))
    expected = [(number, [i for i, n in enumerate(numbers) if n == number]) for number in sorted(set(numbers))]
    assert [(number, positions.tolist()) for number, positions in groups] == expected


@pytest.mark.parametrize("share", [0.1, 0.9])
def test_groups_of_many(share):
    rng = np.random.default_rng(0)
    numbers = np.where(rng.random(100_000) < share, 3, rng.integers(0, 162, 100_000)).astype(np.uint8)
    for number, positions in positions_by_number(numbers):
        assert (positions == np.flatnonzero(numbers == number)).all()
