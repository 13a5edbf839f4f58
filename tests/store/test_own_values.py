"""What a part holds is put into the frozen view as a slot-by-slot reference would do it."""

import numpy as np
import pytest

from tsn_toolkit.contracts import LayerPlanes
from tsn_toolkit.numerics.bits import pack_bits
from tsn_toolkit.numerics.packed_codes import PackedCodes
from tsn_toolkit.store import own_values
from tsn_toolkit.store.layout import KeptSlots
from tsn_toolkit.store.own_values import ReadCodes, ReadPlane, ReadResiduals

PRUNED, REUSE, OWN, REFINE = range(4)


@pytest.fixture(params=["pieces", "whole"])
def _pieces(request, monkeypatch):
    """The arrays here are small: once as they are, once in many pieces."""
    if request.param == "pieces":
        monkeypatch.setattr(own_values, "_CHUNK", 7)
        monkeypatch.setattr(own_values, "_PLANE_CHUNK", 8)


def packed(codes, width):
    return PackedCodes.of(pack_bits(codes, width), width, len(codes))


@pytest.mark.usefixtures("_pieces")
@pytest.mark.parametrize("grain", [1, 2, 9])
def test_own_codes_and_residuals(grain):
    rng = np.random.default_rng(grain)
    view = rng.integers(-127, 128, (10, 4, 9)).astype(np.int8)
    patches = rng.choice([PRUNED, REUSE, OWN, REFINE], view.size // grain).astype(np.uint8)
    states = np.repeat(patches, grain)
    codes, residuals = (rng.integers(0, 1 << width, (states == state).sum()).astype(np.uint8) for width, state in ((4, OWN), (2, REFINE)))
    book, steps = np.arange(-120, 120, 15).astype(np.int8), np.array([-127, -3, 5, 127], np.int8)
    expected, owned, refined = view.reshape(-1).tolist(), iter(codes.tolist()), iter(residuals.tolist())
    for slot, state in enumerate(states.tolist()):
        if state == OWN:
            expected[slot] = int(book[next(owned)])
        elif state == REFINE:
            expected[slot] = max(-127, min(127, expected[slot] + int(steps[next(refined)])))
    scale = np.ones(10, np.float32)
    read = ReadCodes(packed(codes, 4), book, 4, scale, ReadResiduals(packed(residuals, 2), steps, 2))
    read.put_(view, patches)
    assert view.reshape(-1).tolist() == expected
    own = read.unpacked(states.reshape(view.shape))
    assert own.codes.tolist() == codes.tolist()
    assert own.refinement.codes.tolist() == residuals.tolist()


@pytest.mark.usefixtures("_pieces")
@pytest.mark.parametrize("dead", [False, True])
@pytest.mark.parametrize("plain", [False, True])
def test_a_plane_is_added_and_clipped(dead, plain):
    rng = np.random.default_rng(0)
    view = rng.integers(-127, 128, (21, 3, 3)).astype(np.int8)
    kept = KeptSlots(view.shape, {0: np.arange(21) % 4 != 1, 1: np.array([True, False, True])} if dead else {})
    signs = rng.integers(0, 2, kept.size).astype(np.uint8)
    gain = np.where(kept.outputs, rng.choice([0, 1, 60, 127], 21), 0).astype(np.int8)
    full, used = kept.spread(signs), kept.spread(np.ones(kept.size, np.int64))
    step = used * np.where(full, 1, -1) * gain[:, None, None].astype(np.int64)
    expected = np.clip(view + step, -127, 127)
    patches = kept.in_patches(kept.grain)
    states = patches.spread(np.full(patches.size, REFINE, np.uint8)).reshape(-1)
    read = ReadPlane(PackedCodes.plain(signs) if plain else packed(signs, 1), kept, gain, np.ones(21, np.float32))
    read.put_(view, states)
    np.testing.assert_array_equal(view, expected)
    own = read.unpacked(states)
    assert isinstance(own, LayerPlanes)
    np.testing.assert_array_equal(own.signs, full.astype(bool))
