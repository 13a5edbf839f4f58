"""Small float vectors (scales, norms, biases) at one of two precisions: `half` (see `numerics/half.py`) or `int8`.

`int8` is one float32 step s and one byte k per entry, in one of two forms, of which rounding takes the one with the smaller squared error:

- linear: value = s * k, k in [-127, 127];
- ladder, for vectors without a negative entry: value = s * rung(k), k in 0..255. The rungs are 0..31, 32..63, 64, 66, .. 126, 128, 132, ..: 32 to
  each power of two, up to 4032, so that an entry down to 1/126 of the largest is off by at most 1/64 of itself. Scales of a layer lie within a factor
  of two and take the linear form; gains of a norm may lie a hundredfold apart and take the ladder.

Rounding gives s so few significant bits that every product is exact in float32. So the integers can be found again from the values alone (they are
the values divided by their greatest common divisor), rounding twice changes nothing, and a part of a stored vector is stored exactly.

A positive entry of a vector without a negative one stays positive: a scale never becomes 0.

Bytes: float32 step, negative for the ladder, then one byte per entry (int8 of the linear form, uint8 of the ladder); little-endian.
"""

import struct

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tsn_toolkit.numerics.errors import NumericsError
from tsn_toolkit.numerics.half import decode_half, encode_half, half_size_bytes, round_half
from tsn_toolkit.vocabulary import VectorPrecision

RUNGS: NDArray[np.int64] = np.concatenate([np.arange(32), *((np.arange(32, 64) << octave) for octave in range(7))])
"""The 256 steps of the ladder, ascending."""

_LARGEST_LINEAR = 127
_LARGEST_RUNG = int(RUNGS[-1])
_SIGNIFICANT_BITS = 24  # of float32
_SMALLEST = 2.0**-100
"""Below this a vector's step could leave the range of normal float32 numbers."""


def vector_size_bytes(count: int, precision: VectorPrecision) -> int:
    """Bytes that a vector of `count` values takes."""
    return half_size_bytes(count) if precision == "half" else 4 + count


def round_vector(values: ArrayLike, precision: VectorPrecision) -> NDArray[np.float32]:
    """The nearest values that a stored vector can hold, float32 with the shape of `values`; rounding twice changes nothing.

    Raises:
        NumericsError: a value is not finite, beyond the largest float32 when rounded, or, for `int8`, all are nearer to 0 than 2**-100.
    """
    if precision == "half":
        return round_half(values)
    wide = _checked(values)
    if _exact_parts(wide) is not None:
        return wide.astype(np.float32).reshape(np.shape(values))
    candidates = [_round_linear(wide)]
    if not (wide < 0).any():
        candidates.append(_round_ladder(wide))
    errors = [float(np.square(candidate - wide).sum()) for candidate in candidates]
    return candidates[int(np.argmin(errors))].astype(np.float32).reshape(np.shape(values))


def encode_vector(values: ArrayLike, precision: VectorPrecision) -> bytes:
    """Encodes a vector (n,) that the precision can hold exactly, as `round_vector` and any part of its result are.

    Raises:
        NumericsError: it cannot.
    """
    if precision == "half":
        exact = np.asarray(values, np.float32).reshape(-1)
        rounded = round_half(exact)
        changed = np.flatnonzero(rounded != exact)
        if len(changed):
            raise NumericsError(f"value {exact[changed[0]]!r} cannot be stored exactly as `half` (nearest is {rounded[changed[0]]!r})")
        return encode_half(exact)
    wide = _checked(values)
    parts = _exact_parts(wide)
    if parts is None:
        raise NumericsError(f"{wide.size} values from {wide.min():.9g} to {wide.max():.9g} are not int8 steps of one number")
    step, multiples = parts
    if np.abs(multiples).max(initial=0) <= _LARGEST_LINEAR:
        return struct.pack("<f", step) + multiples.astype(np.int8).tobytes()
    return struct.pack("<f", -step) + np.searchsorted(RUNGS, multiples).astype(np.uint8).tobytes()


def decode_vector(data: bytes, count: int, precision: VectorPrecision) -> NDArray[np.float32]:
    """Decodes what `encode_vector` gave for `count` values: float32 (count,).

    Raises:
        NumericsError: `data` has another length or holds a value that is not finite.
    """
    if precision == "half":
        return decode_half(data, count)
    if count < 0 or len(data) != vector_size_bytes(count, precision):
        raise NumericsError(f"{count} int8 values take {vector_size_bytes(count, precision)} bytes, got {len(data)}")
    step = float(np.frombuffer(data[:4], "<f4")[0])
    if not np.isfinite(step):
        raise NumericsError(f"the step of a stored vector is {step}")
    multiples = RUNGS[np.frombuffer(data[4:], np.uint8)] if step < 0 else np.frombuffer(data[4:], np.int8).astype(np.int64)
    wide = abs(step) * multiples
    if (np.abs(wide) > np.finfo(np.float32).max).any():
        raise NumericsError(f"a stored value is not a finite float32 (step {step})")
    return wide.astype(np.float32)


def _checked(values: ArrayLike) -> NDArray[np.float64]:
    wide = np.asarray(values, np.float32).reshape(-1).astype(np.float64)
    if not np.isfinite(wide).all():
        raise NumericsError(f"stored values must be finite, got {wide[~np.isfinite(wide)][0]}")
    largest = float(np.abs(wide).max(initial=0.0))
    if 0 < largest < _SMALLEST:
        raise NumericsError(f"values of an int8 vector may not all be nearer to 0 than 2**-100, the largest is {largest}")
    return wide


def _exact_parts(wide: NDArray[np.float64]) -> tuple[float, NDArray[np.int64]] | None:
    """The largest step of which all values are multiples, and the multiples; None where they are too large for either form."""
    size = np.abs(wide[wide != 0])
    if not size.size:
        return 0.0, np.zeros(wide.shape, np.int64)
    if size.max() > _LARGEST_RUNG * size.min():
        return None
    # Float32 values within a factor of 4032 = 2**12 of each other are integers below 2**37 times one power of two.
    power = int(np.frexp(size.min())[1]) - _SIGNIFICANT_BITS
    integers = np.ldexp(wide, -power).astype(np.int64)
    divisor = int(np.gcd.reduce(integers))
    multiples = integers // divisor
    linear = np.abs(multiples).max() <= _LARGEST_LINEAR
    if not linear and ((multiples < 0).any() or not np.isin(multiples, RUNGS).all()):
        return None
    return float(np.ldexp(float(divisor), power)), multiples


def _round_linear(wide: NDArray[np.float64]) -> NDArray[np.float64]:
    step = _step(wide, _LARGEST_LINEAR)
    multiples = np.rint(wide / step)
    if not (wide < 0).any():
        multiples = np.where(wide > 0, np.maximum(multiples, 1), 0)
    return np.asarray(multiples * step, np.float64)


def _round_ladder(wide: NDArray[np.float64]) -> NDArray[np.float64]:
    step = _step(wide, _LARGEST_RUNG)
    nearest = np.searchsorted((RUNGS[1:] + RUNGS[:-1]) / 2, wide / step)
    return np.asarray(RUNGS[np.where(wide > 0, np.maximum(nearest, 1), 0)] * step, np.float64)


def _step(wide: NDArray[np.float64], largest: int) -> float:
    """The step that makes the largest value `largest` steps, rounded down so far that step * largest still fits float32's 24 bits."""
    mantissa, power = np.frexp(np.abs(wide).max() / largest)
    bits = _SIGNIFICANT_BITS - largest.bit_length()
    return float(np.ldexp(np.floor(np.ldexp(mantissa, bits)), int(power) - bits))
