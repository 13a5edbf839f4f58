"""Half-precision vectors: nearest, idempotent, exact in parts."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tsn_toolkit.numerics.errors import NumericsError
from tsn_toolkit.numerics.half import decode_half, encode_half, round_half

FLOATS = st.floats(-(2.0**120), 2.0**120, width=32)


@given(arrays(np.float32, st.integers(0, 12), elements=FLOATS))
@settings(max_examples=300, deadline=None)
def test_rounding_is_idempotent_and_what_the_bytes_hold(vector):
    rounded = round_half(vector)
    np.testing.assert_array_equal(round_half(rounded), rounded)
    data = encode_half(vector)
    assert len(data) == 1 + 2 * len(vector)
    np.testing.assert_array_equal(decode_half(data, len(vector)), rounded)
    largest = np.abs(vector).max(initial=0)
    near = np.abs(vector) >= largest * 2.0**-28
    error = np.abs(rounded.astype(np.float64) - vector)
    assert (error[near] <= np.abs(vector[near].astype(np.float64)) * 2.0**-11 + 2.0**-150).all()


@given(arrays(np.float32, 6, elements=FLOATS), st.lists(st.booleans(), min_size=6, max_size=6))
@settings(max_examples=200, deadline=None)
def test_a_part_of_a_stored_vector_is_stored_exactly(vector, keep):
    part = round_half(vector)[np.array(keep)]
    np.testing.assert_array_equal(round_half(part), part)


def test_rounding_up_to_a_power_of_two_does_not_move_the_small_entries():
    # The largest rounds to 1.0, so the finest step is 2**-38 (2**-24 of float16 times 2**-14), before and after.
    vector = np.array([1 - 2.0**-13, 3 * 2.0**-39], np.float32)
    once = round_half(vector)
    assert once.tolist() == [1.0, 2 * 2.0**-38]
    assert round_half(once).tolist() == once.tolist()


def test_hand_computed_bytes():
    # 1.5 = 24576 * 2**-14 (largest in [2**14, 2**15)): exponent -14, float16 24576 = 0x7600; 0.5 -> 8192 = 0x7000.
    assert encode_half([1.5, -0.5]) == bytes([256 - 14, 0x00, 0x76, 0x00, 0xF0])


def test_tiny_scales_keep_their_bits():
    tiny = np.array([1.2345e-7, 9.8765e-8], np.float32)
    assert (np.abs(round_half(tiny) / tiny - 1) < 2.0**-11).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: encode_half([1.0, np.inf]), "finite, got inf"),
        (lambda: round_half([np.nan]), "finite, got nan"),
        (lambda: round_half([np.finfo(np.float32).max]), "exponent 114"),
        (lambda: decode_half(b"\0\0", 1), "take 3 bytes, got 2"),
        (lambda: decode_half(b"\0\0\x7c", 1), "not a finite"),
        (lambda: decode_half(b"\x7f\xff\x7b", 1), "exponent 127"),
    ],
)
def test_refuses(call, message):
    with pytest.raises(NumericsError, match=message):
        call()
