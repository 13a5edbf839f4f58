"""Counting in arrays of small numbers (uint8), the contexts and symbols of mask coding."""

import numpy as np
from numpy.typing import NDArray

_VALUES = 256
_FEW_VALUES = 8
_MANY_ELEMENTS = 1 << 16
_CHUNK = 1 << 16
"""Elements compared at a time: the result stays in a processor's cache."""


def count_numbers(numbers: NDArray[np.uint8], values: int) -> NDArray[np.int64]:
    """How often each of the numbers 0..values-1 occurs: int64 (values,).

    Args:
        numbers: uint8, any shape, all below `values`.
        values: 1..256.
    """
    flat = np.ascontiguousarray(numbers).reshape(-1)
    if len(flat) < _MANY_ELEMENTS:
        return np.bincount(flat, minlength=values)[:values].astype(np.int64)
    occurring = int(flat.max()) + 1
    if occurring <= _FEW_VALUES:
        counts = np.zeros(values, np.int64)
        for start in range(0, len(flat), _CHUNK):
            chunk = flat[start : start + _CHUNK]
            counts[:occurring] += [np.count_nonzero(chunk == value) for value in range(occurring)]
        return counts
    # Two neighbours are counted as one 16-bit number: half as many steps, and less often the same counter twice in a row.
    even = len(flat) // 2 * 2
    pairs = np.bincount(flat[:even].view(np.uint16), minlength=_VALUES * _VALUES).reshape(_VALUES, _VALUES)
    of_pairs: NDArray[np.int64] = pairs.sum(axis=0) + pairs.sum(axis=1)
    return (of_pairs + np.bincount(flat[even:], minlength=_VALUES))[:values]
