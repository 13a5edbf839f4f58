"""The const arrays and records of a program, each once, however many layers or tasks use it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tsn_toolkit.export.c.layer_weights import LayerWeights
from tsn_toolkit.export.c.packing import PLACES, Values

ArrayKind: TypeAlias = Literal["int8_t", "uint8_t", "uint16_t", "uint32_t", "int32_t"]
RecordKind: TypeAlias = Literal["tsn_geometry", "tsn_values", "tsn_weights"]
_DTYPES: dict[ArrayKind, type] = {"int8_t": np.int8, "uint8_t": np.uint8, "uint16_t": np.uint16, "uint32_t": np.uint32, "int32_t": np.int32}
_LINE = 140


class Constants:
    """Const data by content; what adds an array or a record returns the name of an equal one that is there already.

    Args:
        pointer_bytes: of the processor, for the sizes of records.
    """

    def __init__(self, pointer_bytes: int = 4) -> None:
        self._pointer_bytes = pointer_bytes
        self._names: dict[tuple[str, bytes | str], str] = {}

    def add(self, name: str, kind: ArrayKind, values: Any) -> str:
        """Name of the array: `name`, with a number behind it where something else has that name, or the name of an equal array."""
        return self._named(name, kind, np.ascontiguousarray(values, _DTYPES[kind]).tobytes())

    def add_record(self, name: str, kind: RecordKind, fields: Sequence[object]) -> str:
        """Name of the record; fields in the order of its type in `weights.h`, arrays and records by their names."""
        return self._named(name, kind, ", ".join(str(field) for field in fields))

    def add_weights(self, name: str, weights: LayerWeights) -> str:
        """Name of the record that gives a layer's weights."""
        values = self._add_values(f"{name}_values", weights.values)
        rows = self._optional(f"{name}_rows", "uint16_t", weights.rows)
        columns = self._optional(f"{name}_columns", "uint16_t", weights.columns)
        used = self._optional(f"{name}_used", "uint8_t", weights.used)
        return self.add_record(f"{name}_weights", "tsn_weights", (f"&{values}", rows, columns, used))

    @property
    def size_bytes(self) -> dict[str, int]:
        """Name -> bytes of everything."""
        return {name: self._size(kind, content) for (kind, content), name in self._names.items()}

    def declarations(self) -> str:
        """C declarations, one line each."""
        return "\n".join(f"extern {_declared(kind, name, content)};" for (kind, content), name in self._names.items())

    def definitions(self) -> str:
        """C definitions."""
        return "\n\n".join(f"{_declared(kind, name, content)} = {_initializer(kind, content)};" for (kind, content), name in self._names.items())

    def _named(self, name: str, kind: str, content: bytes | str) -> str:
        if (kind, content) not in self._names:
            taken, free, number = set(self._names.values()), name, 2
            while free in taken:
                free, number = f"{name}_{number}", number + 1
            self._names[kind, content] = free
        return self._names[kind, content]

    def _optional(self, name: str, kind: ArrayKind, values: NDArray[Any] | None) -> str:
        return "0" if values is None else self.add(name, kind, values)

    def _add_values(self, name: str, values: Values) -> str:
        under = "0" if values.under is None else f"&{self._add_values(f'{name}_under', values.under)}"
        fields = (
            self.add(f"{name}_codes", "int8_t" if values.codebook is None else "uint8_t", values.codes),
            self._optional(f"{name}_codebook", "int8_t", values.codebook),
            self._optional(f"{name}_where", "uint8_t", values.where),
            self._optional(f"{name}_starts", "uint32_t", values.starts),
            under,
            values.shape[1],
            values.bits,
            PLACES.index(values.places),
        )
        return self.add_record(name, "tsn_values", fields)

    def _size(self, kind: str, content: bytes | str) -> int:
        pointer = self._pointer_bytes
        sizes = {"tsn_geometry": 17 * 4, "tsn_values": -(-(5 * pointer + 4 + 2) // pointer) * pointer, "tsn_weights": 4 * pointer}
        return len(content) if isinstance(content, bytes) else sizes[kind]


def _declared(kind: str, name: str, content: bytes | str) -> str:
    return f"const {kind} {name}" if isinstance(content, str) else f"const {kind} {name}[{len(_numbers(kind, content))}]"


def _initializer(kind: str, content: bytes | str) -> str:
    return f"{{{content}}}" if isinstance(content, str) else f"{{\n{number_lines(_numbers(kind, content))}\n}}"


def _numbers(kind: str, content: bytes) -> NDArray[Any]:
    return np.frombuffer(content, next(dtype for name, dtype in _DTYPES.items() if name == kind))


def number_lines(values: NDArray[Any], *, indent: int = 4) -> str:
    """Numbers separated by commas, in lines of bounded length."""
    start = " " * (indent - 1)
    lines, line = [], start
    for value in values.tolist():
        word = f" {value},"
        if len(line) + len(word) > _LINE:
            lines.append(line)
            line = start
        line += word
    return "\n".join([*lines, line])
