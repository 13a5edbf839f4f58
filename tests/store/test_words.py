"""Codes in words, against a slow reference that sets and reads one bit after the other."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsn_toolkit.store.part import PartError
from tsn_toolkit.store.words import Words, words_size_bytes


def slow_bit(data, place):
    return data[place // 8] >> place % 8 & 1


@st.composite
def fields(draw):
    """Some owners' bits per word: a list of (bits, which words have them, codes), widths 1..8, and the words' width."""
    count = draw(st.integers(1, 40))
    owners = []
    for _ in range(draw(st.integers(1, 6))):
        bits = draw(st.integers(0, 8))
        has = np.array(draw(st.lists(st.booleans(), min_size=count, max_size=count)))
        codes = draw(st.lists(st.integers(0, (1 << bits) - 1), min_size=int(has.sum()), max_size=int(has.sum())))
        owners.append((bits, np.flatnonzero(has), np.array(codes, np.uint8)))
    return count, owners


@given(fields())
@settings(max_examples=200, deadline=None)
def test_every_code_stands_at_its_bits(case):
    count, owners = case
    next_bit = np.zeros(count, np.uint16)
    placed = []
    for bits, has, codes in owners:
        placed.append((bits, has, next_bit[has], codes))
        next_bit[has] += bits
    width = int(next_bit.max())
    words = Words.zeros(count, width)
    for _, has, offsets, codes in placed:
        words.write_(has, offsets, codes)
    data = words.to_bytes()
    assert len(data) == words_size_bytes(count, width) and len(data) % 8 == 0
    seen = 0
    for bits, has, offsets, codes in placed:
        np.testing.assert_array_equal(words.read(has, offsets, bits), codes)
        for word, offset, code in zip(has, offsets, codes):
            for k in range(bits):
                assert slow_bit(data, int(word) * width + int(offset) + k) == int(code) >> k & 1
                seen += int(code) >> k & 1
    assert seen == sum(bin(byte).count("1") for byte in data)  # and no other bit is set
    back = Words.from_bytes(data, count, width)
    assert back.to_bytes() == data


def test_more_codes_than_one_chunk(monkeypatch):
    monkeypatch.setattr("tsn_toolkit.store.words._CHUNK", 7)
    codes = np.arange(50, dtype=np.uint8) % 8
    words = Words.zeros(50, 5)
    words.write_(np.arange(50), np.full(50, 2, np.uint16), codes)
    assert words.read(np.arange(50), np.full(50, 2, np.uint16), 3).tolist() == codes.tolist()


def test_by_hand():
    """Two words of 6 bits: 0b000101 and 0b110000, then padding: 0b1100_0000_0101 = c05."""
    words = Words.zeros(2, 6)
    words.write_(np.array([0, 1]), np.array([0, 4], np.uint16), np.array([5, 3], np.uint8))
    assert words.to_bytes().hex() == "050c000000000000"
    assert words.flipped(1, 0).to_bytes().hex() == "450c000000000000" and words.to_bytes().hex() == "050c000000000000"


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"", "take 8 bytes, got 0"), (bytes(9), "take 8 bytes, got 9"), (b"\0\x10" + bytes(6), "a bit is set beyond the last of 2 words of 6 bits")],
)
def test_refuses_other_bytes(data, message):
    with pytest.raises(PartError, match=message):
        Words.from_bytes(data, 2, 6)


def test_no_words():
    for count, width in ((0, 0), (0, 3), (4, 0)):
        assert Words.zeros(count, width).to_bytes() == b"" and Words.from_bytes(b"", count, width).count == count
