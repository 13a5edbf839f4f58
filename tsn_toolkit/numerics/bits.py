"""Codes of a fixed width packed without gaps.

Bit k of value i is bit `i * width + k` of the stream; bit n of the stream is bit `n % 8` (0 = least significant) of byte `n // 8`. The unused bits of
the last byte are zero.

Eight values of up to 8 bits are handled as one 64-bit word: three shifts spread them from neighbouring fields of `width` bits to one byte each, or
bring them back together.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tsn_toolkit.numerics.errors import NumericsError

MAX_WIDTH = 16

_CHUNK = 8192
"""64-bit words handled at a time: few enough to stay in a processor's cache."""


def packed_size_bytes(count: int, width: int) -> int:
    """Bytes that `count` values of `width` bits take."""
    return (count * width + 7) // 8


def pack_bits(values: ArrayLike, width: int) -> bytes:
    """Packs non-negative integers into `width` bits each.

    Args:
        values: integers (n,) in [0, 2**width).
        width: bits per value, 0..16.

    Returns:
        ceil(n * width / 8) bytes.

    Raises:
        NumericsError: the width or a value is out of range, or the values are not integers.
    """
    _check_width(width)
    array = np.asarray(values)
    if array.size and not (np.issubdtype(array.dtype, np.integer) or array.dtype == np.bool_):
        raise NumericsError(f"values to pack must be integers, got dtype {array.dtype}")
    flat = array.reshape(-1)
    if flat.size and (flat.min() < 0 or flat.max() >= 1 << width):
        raise NumericsError(f"values of {width} bits must lie in [0, {1 << width}), got {flat.min()}..{flat.max()}")
    if width <= 1:
        return np.packbits(flat.astype(np.bool_), bitorder="little").tobytes() if width else b""
    if width <= 8:
        return _gather(flat, width)[: packed_size_bytes(len(flat), width)]
    bits = (flat.astype(np.uint16)[:, None] >> np.arange(width, dtype=np.uint16)) & np.uint16(1)
    return np.packbits(bits.astype(np.uint8).reshape(-1), bitorder="little").tobytes()


def unpack_bits(data: bytes | memoryview, width: int, count: int) -> NDArray[np.unsignedinteger[Any]]:
    """Reads `count` values of `width` bits; the inverse of `pack_bits`.

    Args:
        data: exactly the bytes that `pack_bits` gave.
        width: bits per value, 1..16; 0 where there is no value.
        count: number of values.

    Returns:
        (count,) array, uint8 up to 8 bits, uint16 above.

    Raises:
        NumericsError: the width or the count is out of range, `data` has another length, or an unused bit is set.
    """
    check_packed(data, width, count)
    if count == 0:
        return np.zeros(0, np.uint8 if width <= 8 else np.uint16)
    raw = np.frombuffer(data, np.uint8)
    if width == 1:
        return np.unpackbits(raw, count=count, bitorder="little")
    if width <= 8:
        return _spread(raw, width)[:count]
    planes = np.unpackbits(raw, count=count * width, bitorder="little").reshape(count, width).astype(np.uint16)
    values: NDArray[np.unsignedinteger[Any]] = np.bitwise_or.reduce(planes << np.arange(width, dtype=np.uint16), axis=1)
    return values


def check_packed(data: bytes | memoryview, width: int, count: int) -> None:
    """Checks that bytes are `count` packed values of `width` bits.

    Raises:
        NumericsError: the width or the count is out of range, `data` has another length, or an unused bit is set.
    """
    _check_width(width)
    if count < 0:
        raise NumericsError(f"the number of packed values must be at least 0, got {count}")
    if count and not width:
        raise NumericsError(f"values of 0 bits take no bytes, so that nothing bounds their number; got {count}")
    expected = packed_size_bytes(count, width)
    if len(data) != expected:
        raise NumericsError(f"{count} values of {width} bits take {expected} bytes, got {len(data)}")
    used = count * width % 8
    if used and data[-1] >> used:
        raise NumericsError(f"the last byte of {count} values of {width} bits has a bit set beyond the last value")


def _gather(values: NDArray[Any], width: int) -> bytes:
    """Packed bytes of values of 2..8 bits, filled up with zeros to whole 64-bit words."""
    steps = _steps(width, 64)
    rows = np.empty((-(-len(values) // 8), width), np.uint8)
    for first in range(0, len(rows), _CHUNK):
        part = values[8 * first : 8 * (first + _CHUNK)]
        padded = np.zeros(8 * min(_CHUNK, len(rows) - first), np.uint8)
        padded[: len(part)] = part
        words = padded.view("<u8")
        for shift, low, high in reversed(steps):
            words = (words & low) | ((words & high) >> shift)
        rows[first : first + len(words)] = words.astype("<u8").view(np.uint8).reshape(-1, 8)[:, :width]
    return rows.tobytes()


def _spread(raw: NDArray[np.uint8], width: int) -> NDArray[np.uint8]:
    """Values of 2..8 bits, one per byte, and zeros up to a whole word."""
    # A byte of 2, 4 or 8 bits each holds whole values, and its own word is enough; else eight values fill `width` bytes.
    source, fields = (1, 8 // width) if 8 % width == 0 else (width, 8)
    steps = _steps(width, 8 * fields)
    values = np.empty((-(-len(raw) // source), fields), np.uint8)
    for first in range(0, len(values), _CHUNK):
        part = raw[source * first : source * (first + _CHUNK)]
        if source == 1:
            words = part.astype(f"<u{fields}")
        else:
            words = _padded_rows(part, source).view("<u8")
        for shift, low, high in steps:
            words = (words & low) | ((words << shift) & high)
        values[first : first + len(words)] = words.astype(f"<u{fields}").view(np.uint8).reshape(-1, fields)
    return values.reshape(-1)


def _padded_rows(raw: NDArray[np.uint8], width: int) -> NDArray[np.uint8]:
    """Rows of `width` bytes, filled up with zeros to eight."""
    rows = np.zeros((-(-len(raw) // width), 8), np.uint8)
    whole = len(raw) // width
    rows[:whole, :width] = raw[: whole * width].reshape(whole, width)
    rows[whole:, : len(raw) - whole * width] = raw[whole * width :]
    return rows


def _steps(width: int, word_bits: int) -> list[tuple[np.unsignedinteger[Any], ...]]:
    """From neighbouring fields to one byte each: how far the upper halves of 64, 32, 16 bits move, masks of what stays and of what moved."""
    word = np.dtype(f"u{word_bits // 8}").type
    steps: list[tuple[np.unsignedinteger[Any], ...]] = []
    for size in (64, 32, 16):
        if size <= word_bits:
            half = size // 16 * width  # bits that half of the values of `size` bits take before the step
            low = sum((1 << half) - 1 << start for start in range(0, word_bits, size))
            steps.append((word(size // 2 - half), word(low), word(low << size // 2)))
    return steps


def _check_width(width: int) -> None:
    if not 0 <= width <= MAX_WIDTH:
        raise NumericsError(f"bit width must be 0..{MAX_WIDTH}, got {width}")
