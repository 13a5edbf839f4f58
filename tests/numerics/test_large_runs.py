"""Large runs: round trips, sizes against the entropy, hand-made payloads, damaged ones."""

import struct

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from tsn_toolkit.numerics.bits import pack_bits
from tsn_toolkit.numerics.entropy import ideal_bits
from tsn_toolkit.numerics.errors import NumericsError
from tsn_toolkit.numerics.large_runs import decode_large_run, encode_large_run
from tsn_toolkit.numerics.streams import worth_it


def round_trip(ranks: np.ndarray, alphabet: int) -> bytes:
    payload = encode_large_run(ranks, np.bincount(ranks, minlength=alphabet))
    assert decode_large_run(payload, alphabet, len(ranks)).tolist() == ranks.tolist()
    return payload


@given(st.integers(2, 256), st.integers(1, 700), st.floats(0, 1), st.integers(0, 2**32 - 1))
@settings(max_examples=200, deadline=None)
def test_round_trip_of_any_alphabet_and_frequency(alphabet, count, frequent, seed):
    rng = np.random.default_rng(seed)
    favourite = rng.integers(alphabet)
    ranks = np.where(rng.random(count) < frequent, favourite, rng.integers(0, alphabet, count)).astype(np.uint8)
    assert len(round_trip(ranks, alphabet)) > 1, "a form byte and what it announces"


@pytest.mark.parametrize("rarity", [0.03, 0.005, 0.002])
@pytest.mark.parametrize("alphabet", [2, 3, 5])
def test_rare_symbols_are_stored_as_gaps(rarity, alphabet):
    rng = np.random.default_rng(0)
    ranks = np.where(rng.random(60_000) < rarity, rng.integers(0, alphabet, 60_000), alphabet - 1).astype(np.uint8)
    assert round_trip(ranks, alphabet)[0] == 1


def test_a_run_without_any_other_symbol():
    assert encode_large_run(np.ones(1000, np.uint8), np.array([0, 1000]))[0] in (0, 1)
    assert round_trip(np.ones(1000, np.uint8), 2) and round_trip(np.zeros(1000, np.uint8), 3)


@pytest.mark.parametrize(
    "shares", [[0.5, 0.5], [0.7, 0.3], [0.9, 0.1], [0.03, 0.97], [0.995, 0.005], [0.9, 0.07, 0.03], [0.4, 0.3, 0.3], [0.6, 0.2, 0.1, 0.1]]
)
def test_size_is_within_four_percent_of_the_entropy(shares):
    ranks = np.random.default_rng(0).choice(len(shares), 400_000, p=shares).astype(np.uint8)
    assert 8 * len(round_trip(ranks, len(shares))) <= 1.04 * ideal_bits(np.bincount(ranks)) + 2400


@pytest.mark.parametrize("bit_width", [2, 3, 4, 5, 8])
def test_size_of_codes_is_within_two_percent_of_the_entropy(bit_width):
    entries = 1 << bit_width
    codes = np.clip(np.rint(np.random.default_rng(0).normal((entries - 1) / 2, entries / 5, 400_000)), 0, entries - 1).astype(np.uint8)
    assert 8 * len(round_trip(codes, entries)) <= 1.02 * ideal_bits(np.bincount(codes)) + 2400


def test_a_payload_may_be_two_percent_larger():
    assert worth_it(bytes(1016), 8 * 1000) and not worth_it(bytes(1017), 8 * 1000)


def frame(content: bytes, **options: object) -> bytes:
    return zstandard.ZstdCompressor(level=3, **options).compress(content)


def gaps(frequent: int, gap_bytes: list[int], others: bytes = b"", count: int | None = None) -> bytes:
    body = frame(bytes(gap_bytes))
    return b"\1" + struct.pack("<BII", frequent, len(gap_bytes) if count is None else count, len(body)) + body + others


def test_hand_made_payloads():
    assert decode_large_run(b"\0" + frame(bytes([0b11_10_01_00, 0b01])), 4, 5).tolist() == [0, 1, 2, 3, 1]
    assert decode_large_run(gaps(1, [2, 0]), 2, 6).tolist() == [1, 1, 0, 0, 1, 1]
    # Beside 1, the ranks 0 and 2 are written as 0 and 1: here 2, 0, 2.
    assert decode_large_run(gaps(1, [0, 255, 1, 0], frame(bytes([0b101]))), 3, 260).tolist() == [2] + [1] * 256 + [0, 2] + [1]


@pytest.mark.parametrize("gap", [0, 1, 254, 255, 256, 509, 510, 511, 1000])
def test_hand_made_gaps_of_every_length(gap):
    gap_bytes = [255] * (gap // 255) + [gap % 255]
    expected = np.ones(3 * (gap + 1) + 7, np.uint8)
    expected[[gap, 2 * gap + 1, 3 * gap + 2]] = 0
    payload = gaps(1, 3 * gap_bytes)
    assert decode_large_run(payload, 2, len(expected)).tolist() == expected.tolist()
    assert decode_large_run(payload, 2, len(expected) - 7).tolist() == expected[:-7].tolist()


def without_size(content: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_content_size=False).compress(content)


@pytest.mark.parametrize(
    ("payload", "alphabet", "count", "message"),
    [
        (b"", 2, 5, "0 bytes has no known form"),
        (b"\2abc", 2, 5, "4 bytes has no known form"),
        (b"\1abc", 2, 5, "4 bytes has no known form"),
        (b"\0abc", 2, 5, "cannot be read"),
        (b"\0" + frame(b"ab"), 2, 5, "should hold 1 bytes, but states 2"),
        (b"\0" + without_size(b"a"), 2, 8, "should hold 1 bytes, but states"),
        (b"\0" + frame(b"a" * 99)[:-1], 2, 99 * 8, "cannot be read"),
        (b"\0" + frame(b"a") + b"x", 2, 8, "cannot be read"),
        (b"\0" + frame(b"\x80"), 2, 7, "beyond the last value"),
        (b"\0" + frame(pack_bits([0, 3, 1, 1], 2)), 3, 4, "symbol 3 of an alphabet of 3"),
        (gaps(2, [1]), 2, 9, "symbol 2 of 2"),
        (gaps(0, [1, 1, 1]), 2, 2, "has 3 gaps"),
        (gaps(0, [1, 3]), 2, 5, "reach to symbol 6"),
        (gaps(0, [255, 255]), 2, 500, "reach to symbol 510"),
        (gaps(0, [1, 1]) + b"x", 2, 9, "1 bytes too many"),
        (gaps(0, [1, 1], count=3), 2, 9, "should hold 3 bytes, but states 2"),
        (gaps(0, [1, 1])[:-2], 2, 9, "has 2 gaps"),
        (gaps(0, [1, 1], frame(bytes([0b111]))), 3, 9, "beyond the last value"),
        (gaps(0, [1, 1]), 3, 9, "cannot be read"),
    ],
)
def test_refuses(payload, alphabet, count, message):
    with pytest.raises(NumericsError, match=message):
        decode_large_run(payload, alphabet, count)


def test_a_huge_stated_size_takes_no_memory():
    # A frame header alone (single segment, 8-byte content size) that promises 2**50 bytes.
    head = bytes.fromhex("28b52ffd") + bytes([0b11100000]) + (1 << 50).to_bytes(8, "little")
    with pytest.raises(NumericsError, match=f"states {1 << 50}"):
        decode_large_run(b"\0" + head + b"\1\0\0", 2, 100)
