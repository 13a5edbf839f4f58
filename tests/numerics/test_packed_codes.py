"""Codes looked up while they are packed are the codes looked up one by one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsn_toolkit.numerics import packed_codes
from tsn_toolkit.numerics.bits import pack_bits
from tsn_toolkit.numerics.errors import NumericsError
from tsn_toolkit.numerics.packed_codes import PackedCodes


@given(st.integers(0, 2**32), st.integers(1, 8), st.integers(0, 3000), st.booleans())
@settings(max_examples=100, deadline=None)
def test_values_are_entries_of_the_codebook(seed, width, count, by_pairs):
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 1 << width, count).astype(np.uint8)
    codebook = rng.integers(-127, 128, 1 << width).astype(np.int8)
    packed = PackedCodes.of(pack_bits(codes, width), width, count)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packed_codes, "_PAIRS_PAY_FROM", 0 if by_pairs else 1 << 30)
        found = packed.values(codebook)
    assert found.dtype == np.int8
    assert found.tolist() == [int(codebook[code]) for code in codes.tolist()]
    assert packed.codes().tolist() == codes.tolist()
    assert max(codes.tolist(), default=0) <= packed.largest_possible() < 1 << width


def test_a_hand_computed_case():
    # Codes 1, 2, 3, 0, 2: bytes 0b00_11_10_01, 0b10.
    packed = PackedCodes.of(bytes([0b00111001, 0b10]), 2, 5)
    assert packed.values(np.array([-9, -1, 4, 7], np.int8)).tolist() == [-1, 4, 7, -9, 4]
    assert packed.largest_possible() == 3


@given(st.integers(0, 2**32), st.integers(0, 200), st.integers(0, 200), st.booleans())
@settings(max_examples=100, deadline=None)
def test_a_piece_of_bits(seed, first, length, packed):
    codes = np.random.default_rng(seed).integers(0, 2, 400).astype(np.uint8)
    held = PackedCodes.of(pack_bits(codes, 1), 1, 400) if packed else PackedCodes.plain(codes)
    assert held.bits(first, first + length).tolist() == codes[first : first + length].tolist()


@pytest.mark.parametrize(("data", "count", "message"), [(b"\1", 9, "9 values of 1 bits take 2 bytes, got 1"), (b"\x80", 7, "beyond the last value")])
def test_other_bytes_are_refused(data, count, message):
    with pytest.raises(NumericsError, match=message):
        PackedCodes.of(data, 1, count)
