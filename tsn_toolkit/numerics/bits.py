"""Codes of a fixed width packed without gaps.

Bit k of value i is bit `i * width + k` of the stream; bit n of the stream is bit `n % 8` (0 = least significant) of byte `n // 8`. The unused bits of
the last byte are zero.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tsn_toolkit.numerics.errors import NumericsError

MAX_WIDTH = 16


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
    flat = array.reshape(-1).astype(np.int64)
    if flat.size and (flat.min() < 0 or flat.max() >= 1 << width):
        raise NumericsError(f"values of {width} bits must lie in [0, {1 << width}), got {flat.min()}..{flat.max()}")
    bits = (flat.astype(np.uint16)[:, None] >> np.arange(width, dtype=np.uint16)) & np.uint16(1)
    return np.packbits(bits.astype(np.uint8).reshape(-1), bitorder="little").tobytes()


def unpack_bits(data: bytes, width: int, count: int) -> NDArray[np.unsignedinteger[Any]]:
    """Reads `count` values of `width` bits; the inverse of `pack_bits`.

    Args:
        data: exactly the bytes that `pack_bits` gave.
        width: bits per value, 0..16.
        count: number of values.

    Returns:
        (count,) array, uint8 up to 8 bits, uint16 above.

    Raises:
        NumericsError: the width or the count is out of range, `data` has another length, or an unused bit is set.
    """
    _check_width(width)
    if count < 0:
        raise NumericsError(f"the number of packed values must be at least 0, got {count}")
    expected = packed_size_bytes(count, width)
    if len(data) != expected:
        raise NumericsError(f"{count} values of {width} bits take {expected} bytes, got {len(data)}")
    dtype: type[np.unsignedinteger[Any]] = np.uint8 if width <= 8 else np.uint16
    if width == 0:
        return np.zeros(count, dtype)
    bits = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
    if bits[count * width :].any():
        raise NumericsError(f"the last byte of {count} values of {width} bits has a bit set beyond the last value")
    planes = bits[: count * width].reshape(count, width).astype(dtype)
    values: NDArray[np.unsignedinteger[Any]] = np.bitwise_or.reduce(planes << np.arange(width, dtype=dtype), axis=1)
    return values


def _check_width(width: int) -> None:
    if not 0 <= width <= MAX_WIDTH:
        raise NumericsError(f"bit width must be 0..{MAX_WIDTH}, got {width}")
