"""Positive and negative real factors as an int32 multiplier and a shift (Jacob et al. 2018, https://arxiv.org/abs/1712.05877, section 2.2).

A real factor r becomes m * 2**-s with 2**30 <= |m| < 2**31, and an integer a is scaled to

    floor((a * m + 2**(s - 1)) / 2**s),    the product in int64,

which is a * m / 2**s rounded to the nearest integer, halves towards plus infinity. Unlike the paper's, the rounding happens once (no doubling high
multiply followed by a rounding shift), and m may be negative: a channel whose norm has a negative gain keeps its stored weights.

The relative error of m * 2**-s is at most 2**-31 where |r| >= 2**-32; smaller factors keep s = 62 and lose bits of m instead.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tsn_toolkit.errors import ExportError

MAX_SHIFT = 62
_MULTIPLIER_BITS = 31


@dataclass(frozen=True)
class FixedPoint:
    """Real factors, one per channel.

    Attributes:
        multipliers: int32 (n,).
        shifts: uint8 (n,), in [1, 62].
    """

    multipliers: NDArray[np.int32]
    shifts: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.multipliers)


def fixed_point(factors: ArrayLike, *, where: str, common_shift: bool = False) -> FixedPoint:
    """Nearest fixed-point numbers of real factors.

    Args:
        factors: finite floats (n,), |factor| < 2**29.
        where: what the factors belong to, for the message.
        common_shift: all factors take the shift of the largest one, so that their products can be added before the shift.

    Raises:
        ExportError: a factor is not finite or too large.

    >>> fixed_point([0.25], where="an example")
    FixedPoint(multipliers=array([1073741824], dtype=int32), shifts=array([32], dtype=uint8))
    """
    real = np.atleast_1d(np.asarray(factors, np.float64))
    limit = 2.0 ** (_MULTIPLIER_BITS - 2)
    if not np.all(np.abs(real) < limit):  # also catches nan
        worst = real[int(np.argmax(~(np.abs(real) < limit)))]
        raise ExportError(
            f"The factor between input and output steps of {where} must be finite and below 2**29, got {worst}. Calibrate the activations again."
        )
    _, exponents = np.frexp(np.abs(real))  # |factor| = mantissa * 2**exponent, mantissa in [0.5, 1)
    exponents = np.where(real == 0, -MAX_SHIFT, exponents)
    if common_shift:
        exponents = np.full_like(exponents, exponents.max())
    shifts = np.clip(_MULTIPLIER_BITS - exponents, 1, MAX_SHIFT)
    multipliers = np.rint(np.ldexp(real, shifts))
    carried = np.abs(multipliers) >= 2.0**_MULTIPLIER_BITS  # a mantissa that was rounded up to 1
    if common_shift:
        carried = np.full_like(carried, carried.any())
    shifts = shifts - carried
    multipliers = np.where(carried, np.rint(np.ldexp(real, shifts)), multipliers)
    return FixedPoint(multipliers.astype(np.int32), shifts.astype(np.uint8))
