"""Look-up against numpy's indexing."""

import numpy as np
import pytest

from tsn_toolkit.numerics.lookup import look_up


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
@pytest.mark.parametrize("entries", [1, 16, 256])
@pytest.mark.parametrize("shape", [(0,), (7,), (3, 2, 5)])
def test_equals_indexing(dtype, entries, shape):
    rng = np.random.default_rng(entries)
    table = rng.integers(0, 256, entries, np.uint8).view(dtype)
    indices = rng.integers(0, entries, shape).astype(np.uint8)
    found = look_up(indices, table)
    assert found.dtype == dtype and found.shape == shape and (found == table[indices]).all()
    found[...] = 1  # the caller's own


def test_indices_of_a_view():
    indices = np.arange(12, dtype=np.uint8).reshape(3, 4).T[::2]
    assert (look_up(indices, np.arange(12, dtype=np.int8)) == indices).all()
