"""Float vectors as float16 times one power of two per vector.

Scales of a quantized net are often below the smallest normal float16 (6.1e-5); one shared power of two moves the largest entry into [2**14, 2**15),
so that entries down to 2**-28 of the largest keep all 11 significant bits. The exponent is chosen AFTER the largest entry is rounded to 11 bits:
chosen before, a rounding up to the next power of two would change the exponent of a second pass and rounding would not be idempotent.

A part of an exactly stored vector is exactly storable too: its exponent can only be smaller, which only makes subnormals finer.

Bytes: one int8 exponent e, then n little-endian float16 h; the value is h * 2**e.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tsn_toolkit.numerics.errors import NumericsError

_SIGNIFICANT_BITS = 11
_TOP_EXPONENT = 15
_LOWEST_EXPONENT = -128


def half_size_bytes(count: int) -> int:
    """Bytes that a vector of `count` values takes."""
    return 1 + 2 * count


def encode_half(values: ArrayLike) -> bytes:
    """Encodes float values (n,) with the nearest stored ones.

    Raises:
        NumericsError: a value is not finite, or rounds beyond the largest float32.
    """
    exponent, halves = _to_half(values)
    return np.int8(exponent).tobytes() + halves.astype("<f2").tobytes()


def decode_half(data: bytes, count: int) -> NDArray[np.float32]:
    """Decodes what `encode_half` gave for `count` values: float32 (count,).

    Raises:
        NumericsError: `data` has another length or holds a value that is not finite.
    """
    if count < 0 or len(data) != half_size_bytes(count):
        raise NumericsError(f"{count} half values take {half_size_bytes(count)} bytes, got {len(data)}")
    exponent = int(np.frombuffer(data[:1], np.int8)[0])
    return _from_half(exponent, np.frombuffer(data[1:], "<f2"))


def round_half(values: ArrayLike) -> NDArray[np.float32]:
    """The nearest values that a stored vector can hold, float32 with the shape of `values`; rounding twice changes nothing.

    Raises:
        NumericsError: a value is not finite, or rounds beyond the largest float32.
    """
    exponent, halves = _to_half(values)
    return _from_half(exponent, halves).reshape(np.shape(values))


def _to_half(values: ArrayLike) -> tuple[int, NDArray[np.float16]]:
    wide = np.asarray(values, np.float32).reshape(-1).astype(np.float64)
    if not np.isfinite(wide).all():
        raise NumericsError(f"stored values must be finite, got {wide[~np.isfinite(wide)][0]}")
    largest = float(np.abs(wide).max(initial=0.0))
    if largest == 0.0:
        return 0, wide.astype(np.float16)  # keeps the sign of a zero
    mantissa, power = np.frexp(largest)
    if np.rint(np.ldexp(mantissa, _SIGNIFICANT_BITS)) == 1 << _SIGNIFICANT_BITS:
        power += 1
    exponent = max(int(power) - _TOP_EXPONENT, _LOWEST_EXPONENT)
    halves = np.ldexp(wide, -exponent).astype(np.float16)
    _from_half(exponent, halves)
    return exponent, halves


def _from_half(exponent: int, halves: NDArray[np.float16]) -> NDArray[np.float32]:
    with np.errstate(invalid="ignore"):  # a damaged vector may hold a signalling NaN; it is refused below
        wide = np.ldexp(halves.astype(np.float64), exponent)
    if not (np.abs(wide) <= np.finfo(np.float32).max).all():  # also catches NaN
        raise NumericsError(f"a stored value is not a finite float32 (exponent {exponent})")
    return wide.astype(np.float32)
