"""Softmax of 8-bit codes in integers: probabilities as int8 with step 1/256 and offset 128, as in TFLite and CMSIS-NN.

With d = largest code - code, in [0, 255], and p(d) = exp(-step * d) as an integer in units of 2**-31,

    high[i] = round(2**31 * exp(-16 * step * i)), low[i] = round(2**31 * exp(-step * i))                  i in [0, 15]
    p(d)   = (high[d // 16] * low[d % 16] + 2**30) // 2**31
    sum    = sum of p over all codes                                in uint64
    s      = the least shift for which sum // 2**s < 2**23
    code   = min(255, (256 * (p(d) // 2**s) + (sum // 2**s) // 2) // (sum // 2**s))

A program holds the 32 integers of `high` and `low` alone, and divides 32-bit numbers. The largest code has p = 2**31, so sum >= 2**31 and s >= 9.

Error: p is off by at most 1.5 units, one half from each factor and one half from the product; the shifts cost 2**-22 of each operand of the division.
So for n codes, 256 * probability lies within 0.5 + 256 * (1.5 * (n + 1) * 2**-31 + 2**-21) of the code, below 0.501 up to 1,000 codes, unless the
probability is above 255.5 / 256: the largest code stands for 255 / 256. Equal inputs get equal codes, and a larger input never gets a smaller one.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from tsn_toolkit.errors import ExportError

PROBABILITY_STEP = 1 / 256
_HIGHEST = 255
_UNIT_BITS = 31
_DIVISOR_BITS = 23


def powers_of(step: float, *, where: str) -> NDArray[np.uint32]:
    """What a program needs for codes of a step.

    Args:
        step: real value of one code, positive and finite.
        where: what is softened, for the message.

    Returns:
        uint32 (32,): `high`, then `low`.

    Raises:
        ExportError: the step is no positive number.
    """
    if not 0 < step < math.inf:
        raise ExportError(f"The step of the input of softmax `{where}` must be positive and finite, got {step}. Calibrate the activations again.")
    exponents = [16 * step * i for i in range(16)] + [step * i for i in range(16)]
    return np.array([round(math.ldexp(math.exp(-exponent), _UNIT_BITS)) for exponent in exponents], np.uint32)


def power_of(below: NDArray[np.int64], powers: NDArray[np.uint32]) -> NDArray[np.int64]:
    """p(d) for distances d in [0, 255] from the largest code, as integers in units of 2**-31."""
    high, low = powers[:16].astype(np.int64), powers[16:].astype(np.int64)
    found: NDArray[np.int64] = (high[below >> 4] * low[below & 15] + (1 << _UNIT_BITS - 1)) >> _UNIT_BITS
    return found


def softmax_codes(codes: NDArray[np.int64], powers: NDArray[np.uint32]) -> NDArray[np.int64]:
    """Codes of the probabilities, exactly as `templates/kernels/softmax.c` computes them.

    Args:
        codes: int64 (examples, n), whose differences lie in [0, 255].
        powers: from `powers_of`.

    Returns:
        int64 (examples, n) in [0, 255]; the probability is code / 256.
    """
    power = power_of(codes.max(1, keepdims=True) - codes, powers)
    total = power.sum(1, keepdims=True)
    shift = np.array([[max(0, int(value).bit_length() - _DIVISOR_BITS)] for value in total.reshape(-1)], np.int64).reshape(total.shape)
    divisor = total >> shift
    found: NDArray[np.int64] = np.minimum(((power >> shift) * 256 + divisor // 2) // divisor, _HIGHEST)
    return found
