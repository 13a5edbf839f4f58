"""Bit packing against a slow reference, at every width."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsn_toolkit.numerics.bits import pack_bits, unpack_bits
from tsn_toolkit.numerics.errors import NumericsError


def slow_pack(values: list[int], width: int) -> bytes:
    number = sum(value << (index * width) for index, value in enumerate(values))
    return number.to_bytes((len(values) * width + 7) // 8, "little")


@pytest.mark.parametrize("width", range(1, 17))
@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_packs_like_one_large_integer(width, data):
    values = data.draw(st.lists(st.integers(0, (1 << width) - 1), max_size=37))
    packed = pack_bits(values, width)
    assert packed == slow_pack(values, width)
    unpacked = unpack_bits(packed, width, len(values))
    assert unpacked.tolist() == values
    assert unpacked.dtype == (np.uint8 if width <= 8 else np.uint16)


@pytest.mark.parametrize("width", range(1, 17))
@pytest.mark.parametrize("count", [65536, 70001])
def test_many_values(width, count):
    values = np.random.default_rng(width).integers(0, 1 << width, count)
    packed = pack_bits(values, width)
    bits = ((values[:, None] >> np.arange(width)) & 1).astype(np.uint8)
    assert packed == np.packbits(bits.reshape(-1), bitorder="little").tobytes()
    assert (unpack_bits(packed, width, count) == values).all()


def test_values_of_no_bits_take_no_bytes():
    assert pack_bits([0, 0, 0], 0) == b""
    assert unpack_bits(b"", 0, 0).tolist() == []


def test_hand_computed():
    # 1, 2, 3 in 2 bits: 01 | 10 << 2 | 11 << 4 = 0b111001
    assert pack_bits([1, 2, 3], 2) == bytes([0b111001])
    # 5, 6, 7 in 3 bits: 101 | 110 << 3 | 111 << 6 = 0b1_1111_0101
    assert pack_bits([5, 6, 7], 3) == bytes([0xF5, 0x01])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pack_bits([4], 2), r"\[0, 4\), got 4\.\.4"),
        (lambda: pack_bits([-1], 2), r"got -1\.\.-1"),
        (lambda: pack_bits([0.5], 2), "float64"),
        (lambda: pack_bits([0], 17), "got 17"),
        (lambda: unpack_bits(b"\0\0", 2, 3), "take 1 bytes, got 2"),
        (lambda: unpack_bits(b"", 2, 3), "take 1 bytes, got 0"),
        (lambda: unpack_bits(b"\x40", 2, 3), "beyond the last value"),
        (lambda: unpack_bits(b"", 2, -1), "got -1"),
        (lambda: unpack_bits(b"", -1, 1), "got -1"),
        (lambda: unpack_bits(b"", 0, 1 << 34), f"nothing bounds their number; got {1 << 34}"),
    ],
)
def test_refuses(call, message):
    with pytest.raises(NumericsError, match=message):
        call()
