"""Small vectors: nearest, idempotent, exact in parts, never 0 where they were positive."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tsn_toolkit.numerics.errors import NumericsError
from tsn_toolkit.numerics.vectors import RUNGS, decode_vector, encode_vector, round_vector, vector_size_bytes

NORMAL = st.floats(2.0**-40, 2.0**60, width=32)
SIGNED = st.one_of(st.just(0.0), NORMAL, NORMAL.map(lambda value: -value))
VECTORS = st.one_of(
    arrays(np.float32, st.integers(0, 12), elements=SIGNED),
    arrays(np.float32, st.integers(1, 12), elements=st.one_of(st.just(0.0), NORMAL)),
    arrays(np.float32, st.integers(1, 12), elements=st.floats(0.5, 60.0, width=32)),
)


@given(VECTORS, st.sampled_from(["half", "int8"]))
@settings(max_examples=500, deadline=None)
def test_rounding_is_idempotent_and_what_the_bytes_hold(vector, precision):
    rounded = round_vector(vector, precision)
    np.testing.assert_array_equal(round_vector(rounded, precision), rounded)
    data = encode_vector(rounded, precision)
    assert len(data) == vector_size_bytes(len(vector), precision) == (1 + 2 * len(vector) if precision == "half" else 4 + len(vector))
    np.testing.assert_array_equal(decode_vector(data, len(vector), precision), rounded)


@given(VECTORS)
@settings(max_examples=500, deadline=None)
def test_error_stays_within_half_a_step(vector):
    wide, rounded = vector.astype(np.float64), round_vector(vector, "int8").astype(np.float64)
    largest = np.abs(wide).max(initial=0)
    assert np.abs(rounded - wide).max(initial=0) <= largest / 64 * (1 + 2.0**-10)
    if not (wide < 0).any():
        assert ((rounded > 0) == (wide > 0)).all()
    else:
        assert np.abs(rounded - wide).max() <= largest / 254 * (1 + 2.0**-10)


@given(VECTORS, st.lists(st.booleans(), min_size=12, max_size=12))
@settings(max_examples=500, deadline=None)
def test_a_part_of_a_stored_vector_is_stored_exactly(vector, keep):
    part = round_vector(vector, "int8")[np.array(keep)[: len(vector)]]
    np.testing.assert_array_equal(decode_vector(encode_vector(part, "int8"), len(part), "int8"), part)


def test_the_form_follows_the_spread():
    near = np.linspace(1, 2, 200, dtype=np.float32)  # like scales: equal steps are finer
    far = np.geomspace(1, 300, 200, dtype=np.float32)  # like gains of a norm: equal ratios are finer
    assert np.frombuffer(encode_vector(round_vector(near, "int8"), "int8")[:4], "<f4") > 0
    assert np.frombuffer(encode_vector(round_vector(far, "int8"), "int8")[:4], "<f4") < 0
    assert np.abs(round_vector(near, "int8") / near - 1).max() < 1 / 127
    assert np.abs(round_vector(far, "int8") / far - 1)[far > 300 / 126].max() <= 1 / 64


def test_hand_computed_bytes():
    # 127 and -63.4: step 1 = 00 00 80 3f, -63.4 is nearest to -63 = c1.
    assert encode_vector(round_vector([127.0, -63.4], "int8"), "int8") == bytes.fromhex("0000803f 7f c1")
    # 127 and -63.5 are stored exactly as 2 and -1 times 63.5 = 00 00 7e 42.
    assert encode_vector(round_vector([127.0, -63.5], "int8"), "int8") == bytes.fromhex("00007e42 02 ff")
    # 4032 and 1: ladder with step -1 = 00 00 80 bf; 4032 = 63 << 6 is rung 32 + 6 * 32 + 31 = 255.
    assert encode_vector([4032.0, 1.0, 0.0], "int8") == bytes.fromhex("000080bf ff 01 00")
    assert len(RUNGS) == 256 and RUNGS[[31, 32, 64, 96, 255]].tolist() == [31, 32, 64, 128, 4032] and (np.diff(RUNGS) > 0).all()


def test_a_scale_never_becomes_0():
    scales = np.array([1.0, 1e-7], np.float32)
    assert (round_vector(scales, "int8") > 0).all()


def test_shape_is_kept():
    assert round_vector(np.ones((2, 3), np.float32), "int8").shape == (2, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: round_vector([1.0, np.inf], "int8"), "finite, got inf"),
        (lambda: round_vector([2.0**-101], "int8"), "nearer to 0 than"),
        (lambda: encode_vector([1.0, 1.0001], "int8"), "2 values from 1 to 1.0001"),
        (lambda: encode_vector([1.0, 1.0001], "half"), "value .*1.0001.* cannot be stored exactly as `half`"),
        (lambda: encode_vector([-1.0, 4032.0], "int8"), "from -1 to 4032"),
        (lambda: decode_vector(b"\0\0\0\0", 1, "int8"), "take 5 bytes, got 4"),
        (lambda: decode_vector(b"\0\0\x80\x7f\0", 1, "int8"), "is inf"),
        (lambda: decode_vector(b"\0\0\x7f\x7f\x7f", 1, "int8"), "not a finite float32"),
    ],
)
def test_refuses(call, message):
    with pytest.raises(NumericsError, match=message):
        call()
