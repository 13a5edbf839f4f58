"""Where the weights of one task's layer come from: values in flash, and which of their rows and columns the task kept."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tsn_toolkit.export.c.packing import Values, pack_values, unpack_values
from tsn_toolkit.numerics.bits import pack_bits

MAX_INDEX = 2**16 - 1


@dataclass(frozen=True)
class LayerWeights:
    """A task's layer of (outputs, inputs, taps) weights, read from values of (rows, columns * taps) slots.

    Attributes:
        values: stored values; several tasks may read the same.
        taps: weights of one output and one input: the kernel's area.
        rows: uint16 (outputs,), row of each output channel; None: all, in order.
        columns: uint16 (inputs,), ascending, column of each input; None: all.
        used: uint8, a bit per weight of the task, least significant first: 0 where the task uses nothing, whatever is stored there; None: all used.
    """

    values: Values
    taps: int
    rows: NDArray[np.uint16] | None = None
    columns: NDArray[np.uint16] | None = None
    used: NDArray[np.uint8] | None = None

    @property
    def read_in_place(self) -> bool:
        """Whether the kernel reads rows where they lie, so that the program needs no memory for one."""
        return self.values.read_in_place and self.columns is None and self.used is None

    @property
    def selection_bytes(self) -> int:
        """Bytes of what is the task's own: rows, columns and used bits."""
        return sum(array.nbytes for array in (self.rows, self.columns, self.used) if array is not None)


def own_weights(codes: NDArray[np.int8], *, where: str) -> LayerWeights:
    """A layer whose values nobody else reads.

    Args:
        codes: int8 (outputs, inputs, kernel rows, kernel columns).
        where: the layer, for the message.

    Raises:
        ExportError: the layer is too large.
    """
    return LayerWeights(pack_values(codes.reshape(len(codes), -1), where=where), taps=codes[0, 0].size)


def select_weights(values: Values, rows: NDArray[np.int64], columns: NDArray[np.int64], q: NDArray[np.int8], taps: int) -> LayerWeights | None:
    """A layer that reads stored values at its own rows and columns.

    Args:
        values: what is stored.
        rows, columns: kept ones, ascending.
        q: int8 (outputs, inputs * taps), what the layer's weights must be.
        taps: see `LayerWeights`.

    Returns:
        None where the stored values do not give `q`, or an index is beyond 16 bits.
    """
    if max(values.shape) > MAX_INDEX:
        return None
    full_rows, full_columns = values.shape[0], values.shape[1] // taps
    found = unpack_values(values)[rows].reshape(len(rows), full_columns, taps)[:, columns].reshape(q.shape)
    if not np.array_equal(np.where(q == 0, 0, found), q):
        return None
    return LayerWeights(
        values,
        taps,
        None if len(rows) == full_rows else rows.astype(np.uint16),
        None if len(columns) == full_columns else columns.astype(np.uint16),
        None if np.array_equal(found, q) else np.frombuffer(pack_bits((q != 0).reshape(-1), 1), np.uint8),
    )
