"""The worked examples of docs/store-format.md, read by a plain decoder that is written from that page alone."""

import re
import struct
from pathlib import Path

import numpy as np
import pytest

from tsn_toolkit.numerics.bit_runs import encode_bit_runs
from tsn_toolkit.numerics.bits import pack_bits
from tsn_toolkit.numerics.entropy import encode_runs
from tsn_toolkit.numerics.vectors import encode_vector
from tsn_toolkit.store.codebooks import encode_codebook
from tsn_toolkit.store.varint import varint

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "store-format.md"
EXAMPLE = r" {4}[a-z]\S*( \d+)* \| [^|]+ \| [0-9a-f ]+"
EXAMPLES = [line.strip().split(" | ") for line in DOCUMENT.read_text().splitlines() if re.fullmatch(EXAMPLE, line)]


# ------------------------------------------------------------------------------------------------------ the reader, from the page


def decode_words(data, models):
    """Symbols of ANS words; a model is the list of starts P_0, P_1, ..., 2**24."""
    words = [int.from_bytes(data[i : i + 4], "little") for i in range(0, len(data), 4)]
    state, symbols = 0, []
    while state < 1 << 32 and words:
        state = state << 32 | words.pop()
    for starts in models:
        r = state % (1 << 24)
        k = next(k for k in range(len(starts) - 1) if starts[k] <= r < starts[k + 1])
        state = (state >> 24) * (starts[k + 1] - starts[k]) + r - starts[k]
        if state < 1 << 32 and words:
            state = state << 32 | words.pop()
        symbols.append(k)
    assert state == 0 and not words
    return symbols


def table_model(frequencies):
    part = [f for f in frequencies if f]
    return [((1 << 24) - len(part)) * sum(part[:k]) // (1 << 15) + k for k in range(len(part))] + [1 << 24]


def bits_model(f, j):
    p = [1 + (((1 << 24) - (1 << j)) * f ** bin(s).count("1") * ((1 << 15) - f) ** (j - bin(s).count("1")) >> 15 * j) for s in range(1 << j)]
    p[0 if f <= 1 << 14 else -1] += (1 << 24) - sum(p)
    return [sum(p[:k]) for k in range(len(p) + 1)]


def chances():
    low = [0, 4, 5, 6, 7, *((8 + i) << o for o in range(7) for i in range(8)), *((16 + i) << o for o in range(6, 10) for i in range(16))]
    return [*low, 16384, *((1 << 15) - f for f in reversed(low))]


def packed(data, width, count):
    number = int.from_bytes(data, "little")
    return [number >> i * width & (1 << width) - 1 for i in range(count)]


def read(kind, arguments, count, data):
    """What the bytes of an example hold: `count` numbers."""
    if kind == "varint":
        return [sum((byte & 0x7F) << 7 * i for i, byte in enumerate(data))]
    if kind == "packed":
        return packed(data, arguments[0], count)
    if kind == "half":
        return [h * 2.0 ** struct.unpack("<b", data[:1])[0] for h in struct.unpack(f"<{count}e", data[1:])]
    if kind == "int8":
        (step,) = struct.unpack("<f", data[:4])
        rungs = [*range(32), *((32 + i) << o for o in range(7) for i in range(32))]
        return [-step * rungs[k] for k in data[4:]] if step < 0 else [step * k for k in struct.unpack(f"<{count}b", data[4:])]
    if kind == "codebook":
        if arguments[0] <= 5:
            return list(struct.unpack(f"<{count}b", data))
        ones = [i for i, bit in enumerate(packed(data, 1, 254 + count)) if bit]
        return [place - i - 127 for i, place in enumerate(ones)]
    if kind == "table":
        possible = [symbol for symbol, f in enumerate(arguments) if f]
        return [possible[k] for k in decode_words(data, [table_model(arguments)] * count)]
    sizes = [8] * (count // 8) + [count % 8] * (count % 8 > 0)
    symbols = decode_words(data, [bits_model(chances()[arguments[0]], j) for j in sizes])
    return [symbol >> i & 1 for symbol, j in zip(symbols, sizes) for i in range(j)]


# ---------------------------------------------------------------------------------------------------------------------- the tests


def write(kind, arguments, numbers):
    array = np.array(numbers)
    return {
        "varint": lambda: varint(numbers[0]),
        "packed": lambda: pack_bits(array, arguments[0]),
        "half": lambda: encode_vector(array.astype(np.float32), "half"),
        "int8": lambda: encode_vector(array.astype(np.float32), "int8"),
        "codebook": lambda: encode_codebook(array.astype(np.int8)),
        "table": lambda: encode_runs([(array, arguments)]),
        "chance": lambda: encode_bit_runs([(array.astype(np.uint8), arguments[0])]),
    }[kind]()


def numbers_of(text):
    if " to " in text:
        first, last = map(int, text.split(" to "))
        return list(range(first, last + 1))
    return [float(word) if "." in word else int(word) for word in text.split()]


@pytest.mark.parametrize("example", EXAMPLES, ids=[f"{kind}: {stored}" for kind, stored, _ in EXAMPLES])
def test_the_document_and_the_writer_agree_with_a_plain_reader(example):
    (kind, *arguments), stored, data = example[0].split(), numbers_of(example[1]), bytes.fromhex(example[2])
    arguments = [int(argument) for argument in arguments]
    assert read(kind, arguments, len(stored), data) == stored
    assert write(kind, arguments, stored) == data


def test_every_kind_has_an_example():
    assert len(EXAMPLES) == 10 and {kind.split()[0] for kind, _, _ in EXAMPLES} == {"varint", "packed", "half", "int8", "codebook", "table", "chance"}
