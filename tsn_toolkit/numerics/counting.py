"""Counting and grouping of arrays of small numbers (uint8), the contexts and symbols of mask coding."""

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


def positions_by_number(numbers: NDArray[np.uint8]) -> list[tuple[int, NDArray[np.intp]]]:
    """The numbers that occur, ascending, each with its ascending positions: positions (n_k,) of number k, int64.

    Args:
        numbers: uint8 (n,).
    """
    counts = count_numbers(numbers, _VALUES)
    common = int(counts.argmax())
    if 2 * counts[common] < len(numbers):
        return _split(np.argsort(numbers, kind="stable"), counts)
    # Sorting only what differs from the most frequent number: it has positions of its own, found by one pass.
    others = np.flatnonzero(numbers != common)
    rest = counts.copy()
    rest[common] = 0
    groups = _split(others[np.argsort(numbers[others], kind="stable")], rest)
    if counts[common]:
        groups.append((common, np.flatnonzero(numbers == common)))
    return sorted(groups, key=lambda group: group[0])


def _split(positions: NDArray[np.intp], counts: NDArray[np.int64]) -> list[tuple[int, NDArray[np.intp]]]:
    ends = np.cumsum(counts)
    return [(number, positions[ends[number] - counts[number] : ends[number]]) for number in np.flatnonzero(counts).tolist()]
