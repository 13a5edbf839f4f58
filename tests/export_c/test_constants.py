"""Arrays and records that stand in flash once."""

import numpy as np

from tsn_toolkit.export.c.constants import Constants
from tsn_toolkit.export.c.layer_weights import LayerWeights, own_weights
from tsn_toolkit.export.c.packing import pack_values


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


def test_two_tasks_that_read_the_same_values_add_their_selections_alone():
    values = pack_values(np.resize(np.array([3, -4, 5], np.int8), (6, 40)), where="conv")
    constants = Constants()
    assert constants.add_weights("tsn_a_conv", LayerWeights(values, 1)) == "tsn_a_conv_weights"
    before = sum(constants.size_bytes.values())
    assert constants.add_weights("tsn_b_conv", LayerWeights(values, 1)) == "tsn_a_conv_weights"
    assert constants.add_weights("tsn_c_conv", LayerWeights(values, 1, rows=np.array([0, 2], np.uint16))) == "tsn_c_conv_weights"
    assert sum(constants.size_bytes.values()) - before == 16 + 4, "a record of four pointers, and two rows"


def test_records_have_the_size_of_the_processors_pointers():
    weights = own_weights(np.arange(-60, 60, dtype=np.int8).reshape(4, 30, 1, 1), where="conv")
    sizes = {}
    for pointer in (4, 8):
        constants = Constants(pointer)
        constants.add_weights("conv", weights)
        sizes[pointer] = constants.size_bytes
    assert sizes[4] == {"conv_values_codes": 120, "conv_values": 28, "conv_weights": 16}
    assert sizes[8] == {"conv_values_codes": 120, "conv_values": 48, "conv_weights": 32}
