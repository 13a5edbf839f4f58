"""Packed weights and arrays that stand in flash once."""

import numpy as np
import pytest

from tsn_toolkit.errors import ExportError
from tsn_toolkit.export.c.constants import Constants, pack_weights
from tsn_toolkit.numerics.bits import unpack_bits


@pytest.mark.parametrize(("values", "bits"), [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3), (16, 4), (17, 5), (100, 7), (128, 7)])
def test_codes_take_the_bits_that_tell_the_weights_apart(values, bits):
    book = np.arange(values, dtype=np.int8)[::-1] - np.int8(values // 2)
    weights = np.random.default_rng(0).permutation(np.resize(book, 3 * 7 * 111)).reshape(3, 7, 111)
    packed = pack_weights(weights, where="conv")
    assert packed.bits == bits
    assert len(packed.data) == -(-weights.size * bits // 8)
    assert np.array_equal(packed.codebook[unpack_bits(packed.data.tobytes(), bits, weights.size)], weights.reshape(-1))


def test_weights_stay_bytes_where_packing_saves_nothing():
    many = np.arange(-127, 128, dtype=np.int8)
    few = np.array([1, -2, 3], np.int8)
    for weights in (many, few):
        packed = pack_weights(weights, where="conv")
        assert packed.codebook is None and packed.bits == 8
        assert np.array_equal(packed.data, weights)


def test_a_layer_beyond_32_bit_positions_is_named():
    huge = np.broadcast_to(np.int8(1), (2**20, 2**10))
    with pytest.raises(ExportError, match=rf"`fc6` has {2**30} weights"):
        pack_weights(huge, where="fc6")


def test_equal_arrays_have_one_name_and_other_arrays_another():
    constants = Constants()
    assert constants.add("a_bias", "int32_t", [1, -2]) == "a_bias"
    assert constants.add("b_bias", "int32_t", np.array([1, -2], np.int64)) == "a_bias"
    assert constants.add("a_bias", "int32_t", [1, 2]) == "a_bias_2"
    assert constants.add("a_shifts", "uint8_t", [1, 2]) == "a_shifts"
    assert constants.add("a_codes", "int8_t", [1, 2]) == "a_codes", "the same bytes of another type are another array"
    assert constants.size_bytes == {"a_bias": 8, "a_bias_2": 8, "a_shifts": 2, "a_codes": 2}
    assert constants.declarations().splitlines()[0] == "extern const int32_t a_bias[2];"
    assert constants.definitions().startswith("const int32_t a_bias[2] = {\n    1, -2,\n};")
