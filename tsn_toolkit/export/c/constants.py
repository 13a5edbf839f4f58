"""The const arrays of a program: weights packed to their codebook's width, and every array once, however many layers or tasks use it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tsn_toolkit.errors import ExportError
from tsn_toolkit.numerics.bits import pack_bits

Kind: TypeAlias = Literal["int8_t", "uint8_t", "int32_t", "tsn_geometry"]
_DTYPES: dict[Kind, type] = {"int8_t": np.int8, "uint8_t": np.uint8, "int32_t": np.int32, "tsn_geometry": np.int32}
_MAX_CODE_BITS = 2**32 - 8
_LINE = 140


@dataclass(frozen=True)
class PackedWeights:
    """Weights as they lie in flash.

    Attributes:
        data: int8 weights in C order, or uint8 with codes of `bits` bits (see `numerics.bits`).
        codebook: int8, the weight of each code, ascending; None where `data` are the weights.
        bits: per weight.
    """

    data: NDArray[np.int8] | NDArray[np.uint8]
    codebook: NDArray[np.int8] | None
    bits: int


def pack_weights(codes: NDArray[np.int8], *, where: str) -> PackedWeights:
    """Codes of as few bits as tell the layer's distinct weights apart, where that and the codebook take fewer bytes than the weights.

    Args:
        codes: int8 weights of any shape.
        where: the layer, for the message.

    Raises:
        ExportError: the layer has 2**32 bits or more, beyond what the program's positions can hold.
    """
    if codes.size * 8 > _MAX_CODE_BITS:
        raise ExportError(f"Layer `{where}` has {codes.size} weights. A C program holds at most {_MAX_CODE_BITS // 8} in a layer; shrink it further.")
    codebook, positions = np.unique(codes, return_inverse=True)
    bits = max(1, math.ceil(math.log2(len(codebook))))
    packed = np.frombuffer(pack_bits(positions.reshape(-1), bits), np.uint8)
    if bits >= 8 or packed.size + codebook.size >= codes.size:
        return PackedWeights(codes.reshape(-1), None, 8)
    return PackedWeights(packed, codebook, bits)


class Constants:
    """Const arrays by content; `add` returns the name of an equal array that is there already."""

    def __init__(self) -> None:
        self._names: dict[tuple[Kind, bytes], str] = {}

    def add(self, name: str, kind: Kind, values: Any) -> str:
        """Name of the array: `name`, with a number behind it where another array has that name, or the name of an equal array."""
        content = np.ascontiguousarray(values, _DTYPES[kind]).tobytes()
        if (kind, content) not in self._names:
            taken, free, number = set(self._names.values()), name, 2
            while free in taken:
                free, number = f"{name}_{number}", number + 1
            self._names[kind, content] = free
        return self._names[kind, content]

    @property
    def size_bytes(self) -> dict[str, int]:
        """Name -> bytes of every array."""
        return {name: len(content) for (_, content), name in self._names.items()}

    def declarations(self) -> str:
        """C declarations, one line each."""
        return "\n".join(f"extern {self._type(kind, name, content)};" for (kind, content), name in self._names.items())

    def definitions(self) -> str:
        """C definitions."""
        return "\n\n".join(
            f"{self._type(kind, name, content)} = {{\n{_lines(np.frombuffer(content, _DTYPES[kind]))}\n}};"
            for (kind, content), name in self._names.items()
        )

    @staticmethod
    def _type(kind: Kind, name: str, content: bytes) -> str:
        return f"const {kind} {name}" if kind == "tsn_geometry" else f"const {kind} {name}[{len(content) // np.dtype(_DTYPES[kind]).itemsize}]"


def _lines(values: NDArray[Any]) -> str:
    """Numbers separated by commas, in lines of bounded length."""
    lines, line = [], "   "
    for value in values.tolist():
        word = f" {value},"
        if len(line) + len(word) > _LINE:
            lines.append(line)
            line = "   "
        line += word
    return "\n".join([*lines, line])
