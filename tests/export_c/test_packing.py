"""Forms in which weights lie in flash: exact, of the bytes worked out by hand, and the smallest of them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsn_toolkit.errors import ExportError
from tsn_toolkit.export.c.packing import pack_values, unpack_values
from tsn_toolkit.numerics.bits import unpack_bits


def sparse(shape, density, values, seed=0):
    """int8 (rows, length) with so many distinct values that are not 0."""
    random = np.random.default_rng(seed)
    book = random.permutation([*range(-127, 0), *range(1, 128)])[:values]
    return np.where(random.random(shape) < density, random.choice(book, shape), 0).astype(np.int8)


@pytest.mark.parametrize(("values", "bits"), [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3), (16, 4), (17, 5), (100, 7), (128, 7)])
def test_codes_take_the_bits_that_tell_the_weights_apart(values, bits):
    book = np.arange(1, values + 1).astype(np.int8)[::-1]
    weights = np.random.default_rng(0).permutation(np.resize(book, 21 * 111)).reshape(21, 111)
    packed = pack_values(weights, where="conv")
    assert (packed.places, packed.bits) == ("every", bits)
    assert len(packed.codes) == -(-weights.size * bits // 8)
    assert np.array_equal(packed.codebook[unpack_bits(packed.codes.tobytes(), bits, weights.size)], weights.reshape(-1))


def test_weights_stay_bytes_where_packing_saves_nothing():
    for weights in (np.arange(-127, 128, dtype=np.int8)[None], np.array([[1, -2, 3]], np.int8)):
        packed = pack_values(weights, where="conv")
        assert packed.read_in_place and packed.codebook is None and packed.bits == 8
        assert np.array_equal(packed.codes, weights[0])


@pytest.mark.parametrize(("density", "places"), [(1.0, "every"), (0.4, "bitmap"), (0.05, "gaps")])
def test_the_smallest_form_is_taken(density, places):
    q = sparse((20, 300), density, 15)
    packed, count = pack_values(q, where="conv"), np.count_nonzero(q)
    expected = {"every": 3000 + 15, "bitmap": -(-count // 2) + 15 + 750 + 84, "gaps": -(-count // 2) + 15 + count + 84}
    assert packed.places == places
    assert packed.size_bytes == expected[places] == min(expected.values())
    assert np.array_equal(unpack_values(packed), q)


def test_gaps_by_hand():
    q = np.zeros((2, 600), np.int8)
    q[0, [0, 255, 511]] = [5, 5, -7]  # 254 slots between the first two: one byte; 255 between the next: a skip, then 0
    q[1, 599] = 5
    packed = pack_values(q, where="conv")
    assert packed.places == "gaps"
    assert packed.where.tolist() == [0, 254, 255, 0, 255, 255, 89]
    assert packed.starts.tolist() == [0, 4, 7]
    assert np.array_equal(unpack_values(packed), q)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 9), st.integers(1, 700), st.floats(0, 1), st.integers(1, 254), st.integers(0, 99))
def test_any_layer_comes_back(rows, length, density, values, seed):
    q = sparse((rows, length), density, values, seed)
    packed = pack_values(q, where="conv")
    assert np.array_equal(unpack_values(packed), q)
    assert packed.size_bytes <= q.size
    change = np.random.default_rng(seed).random(q.shape) < density / 2
    if change.any():
        over = np.where(change, sparse(q.shape, 0.8, values, seed + 1), q)
        assert np.array_equal(unpack_values(pack_values(over, change, where="conv", under=packed)), over)


def test_values_over_others_are_only_those_that_differ():
    below = sparse((8, 400), 1.0, 16)
    change = np.zeros(below.shape, bool)
    change[3, ::7] = True
    above = np.where(change, np.int8(99), below)
    packed = pack_values(above, change, where="conv", under=pack_values(below, where="conv"))
    count = int(change.sum())
    assert packed.size_bytes == -(-count // 8) + 1 + count + 9 * 4, "a bit per code, one codebook entry, a gap per value, starts"
    assert np.array_equal(unpack_values(packed), above)
    assert [values is packed or values is packed.under for values in packed.lineage()] == [True, True]


def test_a_layer_beyond_32_bit_positions_is_named():
    huge = np.broadcast_to(np.int8(1), (2**20, 2**10))
    with pytest.raises(ExportError, match=rf"`fc6` has {2**30} weights"):
        pack_values(huge, where="fc6")
