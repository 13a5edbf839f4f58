"""The weights that a program computes with, read from the text of its `weights.c` row by row, as its kernels read them."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tsn_toolkit.errors import ExportError
from tsn_toolkit.export.c.packing import PLACES

_ARRAY = re.compile(r"const (u?int(?:8|16|32))_t (\w+)\[\d+\] = \{([^}]*)\};")
_RECORD = re.compile(r"const (?:tsn_values|tsn_weights) (\w+) = \{([^}]*)\};")
_SKIP = 255


class WeightText:
    """Arrays and records of one `weights.c`.

    Args:
        text: of the file.
    """

    def __init__(self, text: str) -> None:
        self._arrays = {name: np.array(values.split(",")[:-1], np.int64).astype(kind) for kind, name, values in _ARRAY.findall(text)}
        self._records = {name: tuple(field.strip().removeprefix("&") for field in fields.split(",")) for name, fields in _RECORD.findall(text)}

    def weights(self, record: str, shape: tuple[int, ...]) -> NDArray[np.int8]:
        """Weights of one layer.

        Args:
            record: name of its `tsn_weights`.
            shape: (outputs, inputs / groups, ...) of the weights.

        Raises:
            ExportError: the file does not hold them.
        """
        try:
            values, rows, columns, used = self._records[record]
            taps = int(np.prod(shape[2:]))
            indices = range(shape[0]) if rows == "0" else self._arrays[rows].tolist()
            found = np.stack([self._row(values, row) for row in indices])
            if columns != "0":
                found = found.reshape(shape[0], -1, taps)[:, self._arrays[columns]]
            result = found.reshape(shape)
            if used != "0":
                bits = np.unpackbits(self._arrays[used], bitorder="little")[: result.size]
                result = np.where(bits.reshape(shape) == 1, result, 0).astype(np.int8)
            return result
        except (KeyError, ValueError, IndexError, OverflowError) as error:
            raise ExportError(f"`weights.c` does not hold `{record}` of shape {shape}: {type(error).__name__}: {error}") from error

    def _row(self, record: str, row: int) -> NDArray[np.int8]:
        codes, codebook, where, starts, under, length, bits, places = self._records[record]
        size = int(length)
        result = np.zeros(size, np.int8) if under == "0" else self._row(under, row)
        if PLACES[int(places)] == "every":
            slots, entries = np.arange(size), row * size + np.arange(size)
        elif PLACES[int(places)] == "bitmap":
            flags = np.unpackbits(self._arrays[where], bitorder="little")[row * size : (row + 1) * size]
            slots = np.flatnonzero(flags)
            entries = int(self._arrays[starts][row]) + np.arange(len(slots))
        else:
            every = np.arange(*self._arrays[starts][row : row + 2])
            gaps = self._arrays[where][every].astype(np.int64)
            ends = np.cumsum(np.where(gaps == _SKIP, _SKIP, gaps + 1)) - 1
            slots, entries = ends[gaps != _SKIP], every[gaps != _SKIP]
        result[slots] = self._values(codes, codebook, int(bits), entries)
        return result

    def _values(self, codes: str, codebook: str, bits: int, entries: NDArray[Any]) -> NDArray[np.int8]:
        if codebook == "0":
            direct: NDArray[np.int8] = self._arrays[codes][entries]
            return direct
        packed = np.append(self._arrays[codes], 0).astype(np.int64)
        position = entries * bits
        pair = packed[position >> 3] | packed[np.minimum((position >> 3) + 1, len(packed) - 1)] << 8
        found: NDArray[np.int8] = self._arrays[codebook][pair >> (position & 7) & ((1 << bits) - 1)]
        return found
