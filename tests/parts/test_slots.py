"""Full tensors to the slots of a really shrunk net, and back, against numpy's own indexing."""

import learning_samples as samples
import numpy as np
import pytest

from tsn_toolkit.contracts import FrozenLayer, LayerCodes, LayerPlanes, Refinement
from tsn_toolkit.graph.shrink import shrink
from tsn_toolkit.parts.slots import full_sizes, gather_frozen, kept_rows, layer_integers, scatter_head, scatter_layer, scatter_vector

MASKS = {
    "conv1": np.array([True, False, True, True]),
    "conv2": np.array([False, True, True, False, True, True, True, False]),
    "conv4": np.array([True, True, False, True, False, False, True, True]),
}
# output units, input units of every layer: conv2 and conv3 are added, so they share a group
LAYERS = {"conv1": ("conv1", None), "conv2": ("conv2", "conv1"), "conv3": ("conv2", "conv2"), "conv4": ("conv4", "conv2")}


@pytest.fixture(scope="module")
def small():
    return shrink(samples.factory(), samples.graph(), MASKS)


def kept_grid(layer):
    """Index of the kept part of a full convolution weight."""
    rows, columns = LAYERS[layer]
    return np.ix_(np.flatnonzero(MASKS[rows]), np.flatnonzero(MASKS[columns]) if columns else [0], range(3), range(3))


@pytest.mark.parametrize("layer", LAYERS)
def test_gather_is_numpy_indexing(small, layer):
    random = np.random.default_rng(0)
    shape = samples.graph().layer(layer).shape
    q = random.integers(-127, 128, shape).astype(np.int8)
    present = random.random(shape) < 0.5
    scale = random.random(shape[0]).astype(np.float32)
    slots = small.slots[f"{layer}.weight"]
    found_q, found_present, found_scale = gather_frozen(FrozenLayer(q, present, scale), slots)
    grid = kept_grid(layer)
    np.testing.assert_array_equal(found_q.numpy(), q[grid])
    np.testing.assert_array_equal(found_present.numpy(), present[grid])
    np.testing.assert_array_equal(found_scale.numpy(), scale[MASKS[LAYERS[layer][0]]])
    np.testing.assert_array_equal(kept_rows(slots, shape).numpy(), np.flatnonzero(MASKS[LAYERS[layer][0]]))
    assert gather_frozen(FrozenLayer(q, present, None), slots)[2] is None


@pytest.mark.parametrize("layer", LAYERS)
def test_scattered_codes_decode_to_the_same_integers_at_their_slots(small, layer):
    random = np.random.default_rng(1)
    slots, shape = small.slots[f"{layer}.weight"], samples.graph().layer(layer).shape
    states = random.integers(0, 3, tuple(slots.shape)).astype(np.uint8)
    codebook = np.array([-90, -7, 5, 101], np.int8)
    own = random.integers(0, 4, int((states == 2).sum())).astype(np.uint8)
    codes = LayerCodes(states, own, codebook, 2, random.random(len(states)).astype(np.float32))
    full = scatter_layer(codes, slots, shape)
    grid = kept_grid(layer)

    def decode(layer_codes):
        q = np.zeros(layer_codes.states.shape, np.int8)
        q[layer_codes.states == 2] = layer_codes.codebook[layer_codes.codes]
        return q

    expected_states, expected_q = np.zeros(shape, np.uint8), np.zeros(shape, np.int8)
    expected_states[grid], expected_q[grid] = states, decode(codes)
    np.testing.assert_array_equal(full.states, expected_states)
    np.testing.assert_array_equal(decode(full), expected_q)
    expected_scale = np.zeros(shape[0], np.float32)
    expected_scale[MASKS[LAYERS[layer][0]]] = codes.scale
    np.testing.assert_array_equal(full.scale, expected_scale)
    # and back
    back, _, scale = gather_frozen(FrozenLayer(decode(full), full.states == 2, full.scale), slots)
    np.testing.assert_array_equal(back.numpy(), decode(codes))
    np.testing.assert_array_equal(scale.numpy(), codes.scale)


@pytest.mark.parametrize("layer", LAYERS)
def test_scattered_planes_decode_to_the_same_integers_at_their_slots(small, layer):
    random = np.random.default_rng(1)
    slots, shape, grid = small.slots[f"{layer}.weight"], samples.graph().layer(layer).shape, kept_grid(layer)
    rows = slots.shape[0]
    gain = random.integers(0, 128, rows).astype(np.int8)
    planes = LayerPlanes(random.random(tuple(slots.shape)) < 0.5, gain, random.random(rows).astype(np.float32))
    full = scatter_layer(planes, slots, shape)
    inherited = random.integers(-127, 128, shape).astype(np.int8)
    np.testing.assert_array_equal(layer_integers(full, inherited)[grid], layer_integers(planes, inherited[grid]))
    assert full.signs.sum() == planes.signs.sum() and full.signs.shape == shape
    for full_vector, vector in ((full.gain, planes.gain), (full.scale, planes.scale)):
        expected = np.zeros(shape[0], vector.dtype)
        expected[MASKS[LAYERS[layer][0]]] = vector
        np.testing.assert_array_equal(full_vector, expected)


def test_layer_integers_by_hand():
    inherited = np.array([[100, -5, 7], [0, 3, -120]], np.int8)
    planes = LayerPlanes(np.array([[True, False, True], [True, False, False]]), np.array([30, 9], np.int8), np.ones(2, np.float32))
    assert layer_integers(planes, inherited).tolist() == [[127, -35, 37], [9, -6, -127]]
    refinement = Refinement(np.array([1, 0], np.uint8), np.array([-4, 60], np.int8), 1)
    codes = LayerCodes(
        np.array([[3, 1, 0], [2, 3, 2]], np.uint8),
        np.array([1, 0], np.uint8),
        np.array([-9, 8], np.int8),
        1,
        np.ones(2, np.float32),
        "element",
        refinement,
    )
    assert layer_integers(codes, inherited).tolist() == [[127, -5, 0], [8, -1, -9]]


def test_vectors_and_head(small):
    vector = np.arange(1, 6, dtype=np.float32)
    np.testing.assert_array_equal(scatter_vector(vector, small.slots["bn2.weight"], 8), [0, 1, 2, 0, 3, 4, 5, 0])
    columns = np.repeat(MASKS["conv4"], 4)  # 2 x 2 positions per channel
    codes = np.random.default_rng(2).integers(-127, 128, (6, int(columns.sum()))).astype(np.int8)
    full = scatter_head(codes, small.slots["head.weight"], 32)
    assert full.shape == (6, 32) and not full[:, ~columns].any()
    np.testing.assert_array_equal(full[:, columns], codes)


def test_full_sizes():
    assert full_sizes(samples.factory().state_dict())["conv2.weight"] == (8, 4, 3, 3)
