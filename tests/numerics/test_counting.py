"""Counts and groups against numpy's plain functions."""

import numpy as np
import pytest

from tsn_toolkit.numerics.counting import count_numbers


@pytest.mark.parametrize("values", [1, 2, 8, 9, 54, 256])
@pytest.mark.parametrize("size", [0, 1, 1000, 65_536, 65_537])
def test_counts(values, size):
    numbers = np.random.default_rng(size + values).integers(0, values, size).astype(np.uint8)
    counts = count_numbers(numbers, values)
    assert counts.dtype == np.int64 and counts.tolist() == np.bincount(numbers, minlength=values).tolist()
    assert count_numbers(np.repeat(numbers, 2)[::2].reshape(-1, 1), values).tolist() == counts.tolist()
