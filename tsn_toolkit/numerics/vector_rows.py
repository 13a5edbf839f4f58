"""Arrays of floats as one vector (see `numerics/vectors.py`) for each row along the last dimension: a row has a step or an exponent of its own.

An array without dimensions is one row of one value. A part of a row that is stored exactly is stored exactly too.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tsn_toolkit.numerics.vectors import decode_vector, encode_vector, round_vector, vector_size_bytes
from tsn_toolkit.vocabulary import VectorPrecision


def rows_size_bytes(rows: int, length: int, precision: VectorPrecision) -> int:
    """Bytes that `rows` rows of `length` values take."""
    return rows * vector_size_bytes(length, precision)


def round_rows(values: NDArray[np.float32], precision: VectorPrecision) -> NDArray[np.float32]:
    """The nearest values that stored rows can hold, float32 with the shape of `values`; rounding twice changes nothing.

    Raises:
        NumericsError: as `round_vector`.
    """
    rounded = np.empty(np.shape(values), np.float32)
    for row, out in zip(_rows(values), _rows(rounded), strict=True):
        out[:] = round_vector(row, precision)
    return rounded


def encode_rows(values: NDArray[np.float32], precision: VectorPrecision) -> bytes:
    """Encodes rows that the precision can hold exactly.

    Raises:
        NumericsError: it cannot hold one of them.
    """
    return b"".join(encode_vector(row, precision) for row in _rows(values))


def decode_rows(data: bytes, rows: int, length: int, precision: VectorPrecision) -> NDArray[np.float32]:
    """Decodes what `encode_rows` gave: float32 (rows, length).

    Raises:
        NumericsError: `data` has another length or holds a value that is not finite.
    """
    size_bytes = vector_size_bytes(length, precision)
    values = np.empty((rows, length), np.float32)
    for row in range(rows):
        values[row] = decode_vector(data[row * size_bytes : (row + 1) * size_bytes], length, precision)
    return values


def _rows(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """A view with one row per row."""
    length = values.shape[-1] if values.ndim else 1
    return values.reshape(values.size // length if length else 0, length)
