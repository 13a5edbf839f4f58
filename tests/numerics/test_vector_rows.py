"""Arrays as one vector per row: each row as it is stored alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsn_toolkit.numerics.errors import NumericsError
from tsn_toolkit.numerics.vector_rows import decode_rows, encode_rows, round_rows, rows_size_bytes
from tsn_toolkit.numerics.vectors import encode_vector, round_vector

PRECISIONS = ("half", "int8")


@given(st.lists(st.integers(1, 5), max_size=3), st.sampled_from(PRECISIONS), st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_every_row_is_a_vector_of_its_own(shape, precision, seed):
    rng = np.random.default_rng(seed)
    values = np.asarray(rng.normal(size=shape) * 10.0 ** rng.integers(-6, 6, [*shape[:-1], 1] if shape else ()), np.float32)
    rounded = round_rows(values, precision)
    assert rounded.shape == values.shape and rounded.dtype == np.float32
    np.testing.assert_array_equal(round_rows(rounded, precision), rounded)
    rows = values.reshape(-1, shape[-1] if shape else 1)
    for row, other in zip(rows, rounded.reshape(rows.shape), strict=True):
        np.testing.assert_array_equal(round_vector(row, precision), other)
    data = encode_rows(rounded, precision)
    assert data == b"".join(encode_vector(row, precision) for row in rounded.reshape(rows.shape))
    assert len(data) == rows_size_bytes(*rows.shape, precision)
    np.testing.assert_array_equal(decode_rows(data, *rows.shape, precision), rounded.reshape(rows.shape))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_by_hand(precision):
    """A large row beside a small one: neither is coarser for the other."""
    values = np.array([[1.5, -0.5], [3e-5, 1e-5]], np.float32)
    found = round_rows(values, precision)
    np.testing.assert_allclose(found, values, rtol=0.01)
    if precision == "half":
        assert encode_rows(values[:1], precision).hex() == "f2007600f0"


@pytest.mark.parametrize("shape", [(0, 3), (2, 0), (0,)])
def test_nothing_takes_no_byte(shape):
    assert encode_rows(np.zeros(shape, np.float32), "half") == b"" and round_rows(np.zeros(shape, np.float32), "int8").shape == shape


def test_refuses_what_no_row_can_hold():
    with pytest.raises(NumericsError, match="must be finite, got nan"):
        round_rows(np.array([[1.0], [np.nan]], np.float32), "half")
    with pytest.raises(NumericsError, match="cannot be stored exactly"):
        encode_rows(np.array([[1.0, 1 / 3]], np.float32), "half")
    with pytest.raises(NumericsError, match="2 half values take 5 bytes, got 4"):
        decode_rows(bytes(4), 1, 2, "half")
