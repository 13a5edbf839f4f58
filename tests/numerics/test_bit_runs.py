"""Runs of bits: what goes in comes out, near the entropy, and the arithmetic is what the format's document says."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsn_toolkit.numerics.bit_runs import ALWAYS, CHANCES, NEVER, TOTAL, BitDecoder, chance_bits, encode_bit_runs, nearest_chance, symbol_frequencies
from tsn_toolkit.numerics.errors import NumericsError

RUNS = st.lists(st.tuples(st.integers(0, 70), st.sampled_from([0.0, 0.01, 0.3, 0.5, 0.97, 1.0])), max_size=6)


def draw(shapes, seed):
    rng = np.random.default_rng(seed)
    bits = [(rng.random(count) < share).astype(np.uint8) for count, share in shapes]
    return [(run, int(nearest_chance(run.sum(), len(run)))) for run in bits]


@given(RUNS, st.integers(0, 2**32))
@settings(max_examples=200, deadline=None)
def test_runs_come_back(shapes, seed):
    runs = draw(shapes, seed)
    decoder = BitDecoder(encode_bit_runs(runs))
    for bits, chance in runs:
        np.testing.assert_array_equal(decoder.read(chance, len(bits)), bits)
    decoder.finish()


def test_certain_runs_cost_nothing():
    runs = draw([(1000, 0.0), (1000, 1.0), (0, 0.5)], 0)
    assert [chance for _, chance in runs] == [NEVER, ALWAYS, NEVER]
    assert encode_bit_runs(runs) == b""


@pytest.mark.parametrize("share", [0.0005, 0.003, 0.02, 0.1, 0.3, 0.5, 0.77, 0.98])
def test_size_is_near_the_entropy(share):
    ((bits, chance),) = draw([(300_001, share)], 3)
    exact = bits.mean()
    entropy = -len(bits) * (exact * np.log2(exact) + (1 - exact) * np.log2(1 - exact))
    size = 8 * len(encode_bit_runs([(bits, chance)]))
    assert entropy <= size <= 1.002 * entropy + 64
    assert abs(size - chance_bits(bits.sum(), len(bits), chance)) <= 64 + 1e-4 * size


def test_the_best_chance_is_taken():
    for ones, total in ((1, 1000), (3, 7), (500, 1000), (999, 1000), (40_000, 1_000_000)):
        costs = chance_bits(ones, total, np.arange(1, ALWAYS))
        assert int(nearest_chance(ones, total)) == 1 + int(costs.argmin())
    assert nearest_chance([0, 0, 5], [0, 9, 5]).tolist() == [NEVER, NEVER, ALWAYS]


def test_chances_ascend_and_mirror():
    assert len(CHANCES) == 251 and CHANCES[[0, 1, 125, 250]].tolist() == [0, 4, TOTAL // 2, TOTAL]
    assert (np.diff(CHANCES) > 0).all() and (CHANCES + CHANCES[::-1] == TOTAL).all()


def test_hand_computed_frequencies():
    # Chance 125 is one half: 2 bits give four symbols of 1 + floor((2**24 - 4) / 4) = 2**22 each.
    assert symbol_frequencies(125, 2).tolist() == [1 << 22] * 4
    # Chance 1 is f = 4 of 32768: a one has 1 + floor((2**24 - 2) * 4 / 2**15) = 1 + 2047, and the zero all the rest.
    assert symbol_frequencies(1, 1).tolist() == [(1 << 24) - 2048, 2048]
    for chance in (1, 60, 125, 200, 249):
        for bits in range(1, 9):
            frequencies = symbol_frequencies(chance, bits)
            assert frequencies.sum() == 1 << 24 and frequencies.min() >= 1


def plain_decode(data: bytes, models: list[np.ndarray]) -> list[int]:
    """The coder as docs/store-format.md describes it: a 64-bit state, 32-bit words from the end, 24 bits of precision."""
    words = [int.from_bytes(data[i : i + 4], "little") for i in range(0, len(data), 4)]
    state = 0
    while words and state < 1 << 32:
        state = state << 32 | words.pop()
    symbols = []
    for frequencies in models:
        place, start, symbol = state % (1 << 24), 0, 0
        while place >= start + int(frequencies[symbol]):
            start += int(frequencies[symbol])
            symbol += 1
        state = (state >> 24) * int(frequencies[symbol]) + place - start
        if state < 1 << 32 and words:
            state = state << 32 | words.pop()
        symbols.append(symbol)
    assert state == 0 and not words
    return symbols


def test_a_plain_reader_reads_the_stream():
    runs = draw([(37, 0.1), (64, 0.5), (5, 0.6), (200, 0.02)], 1)
    models, expected = [], []
    for bits, chance in runs:
        for start in range(0, len(bits), 8):
            part = bits[start : start + 8]
            models.append(symbol_frequencies(chance, len(part)))
            expected.append(sum(int(bit) << place for place, bit in enumerate(part)))
    assert plain_decode(encode_bit_runs(runs), models) == expected


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: encode_bit_runs([(np.array([0, 1], np.uint8), NEVER)]), "chance 0 of 32768 excludes"),
        (lambda: encode_bit_runs([(np.array([0, 1], np.uint8), ALWAYS)]), "chance 32768 of 32768 excludes"),
        (lambda: encode_bit_runs([(np.array([0, 2], np.uint8), 100)]), "excludes"),
        (lambda: BitDecoder(b"abc"), "3 bytes is not a whole"),
        (lambda: BitDecoder(bytes(4)), "nonzero"),
        (lambda: BitDecoder(b"").read(251, 3), "0..250, got 251"),
        (lambda: BitDecoder(b"abcd").finish(), "does not end"),
    ],
)
def test_refuses(call, message):
    with pytest.raises(NumericsError, match=message):
        call()
