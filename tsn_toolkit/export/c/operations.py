"""The integer operations of a program, in the order in which they run.

A tensor holds codes q; its real values are step * q. In memory a code is one int8: q itself where the tensor is signed, q - 128 where it is unsigned
(q in [0, 255]). Layout is channel, row, column, so flattening moves nothing. Tensors of 1-d networks have one row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tsn_toolkit.export.c.fixed_point import FixedPoint

Pair: TypeAlias = tuple[int, int]


@dataclass(frozen=True)
class Tensor:
    """Codes of one activation without the batch.

    Attributes:
        buffer: name of the memory that holds it; a reshaped tensor has the buffer of the original.
        shape: (channels, rows, columns), (channels, columns) or (features,).
        step: real value of one code.
        signed: codes are in [-128, 127]; otherwise in [0, 255].
    """

    buffer: str
    shape: tuple[int, ...]
    step: float
    signed: bool

    @property
    def size(self) -> int:
        """Number of values, which is also the number of bytes."""
        return math.prod(self.shape)

    @property
    def planes(self) -> tuple[int, int, int]:
        """(channels, rows, columns), 1 where the shape has fewer dimensions."""
        channels, *rest = self.shape
        rows, columns = (1, *rest)[-2:] if rest else (1, 1)
        return channels, rows, columns

    @property
    def offset(self) -> int:
        """What a stored byte lacks to the code."""
        return 0 if self.signed else 128


@dataclass(frozen=True)
class Window:
    """What one output position reads; each pair is (rows, columns)."""

    kernel: Pair
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)

    def output(self, rows: int, columns: int) -> Pair:
        """Output (rows, columns) of an input of that size."""
        spans = [dilation * (kernel - 1) + 1 for kernel, dilation in zip(self.kernel, self.dilation)]
        sizes = [(size + 2 * pad - span) // stride + 1 for size, pad, span, stride in zip((rows, columns), self.padding, spans, self.stride)]
        return sizes[0], sizes[1]


@dataclass(frozen=True)
class Convolution:
    """target = clip(scale(sum of source * codes + bias)); a linear layer is a 1x1 convolution of a 1x1 image.

    Attributes:
        layer: path of the layer in the model.
        codes: int8 (out channels, in channels / groups, kernel rows, kernel columns), the store's integers.
        bias: int32 (out channels,).
        factors: per output channel; negative where the norm's gain is.
    """

    layer: str
    source: Tensor
    target: Tensor
    codes: NDArray[np.int8]
    bias: NDArray[np.int32]
    factors: FixedPoint
    window: Window
    groups: int

    @property
    def sources(self) -> tuple[Tensor, ...]:
        return (self.source,)


@dataclass(frozen=True)
class Pool:
    """Largest code of a window, padding left out, or scale(sum of the codes of a window), padding being code 0."""

    kind: Literal["max", "average"]
    source: Tensor
    target: Tensor
    window: Window
    factor: FixedPoint | None = None

    @property
    def sources(self) -> tuple[Tensor, ...]:
        return (self.source,)


@dataclass(frozen=True)
class Add:
    """target = clip(scale(first * multiplier + second * multiplier)) with one shift and one rounding."""

    first: Tensor
    second: Tensor
    target: Tensor
    factors: FixedPoint

    @property
    def sources(self) -> tuple[Tensor, ...]:
        return (self.first, self.second)


@dataclass(frozen=True)
class Rescale:
    """target = clip(scale(source)): the same values with another step or sign."""

    source: Tensor
    target: Tensor
    factor: FixedPoint

    @property
    def sources(self) -> tuple[Tensor, ...]:
        return (self.source,)


@dataclass(frozen=True)
class Concat:
    """The channels of all sources, which have the target's step and sign, one after the other."""

    sources: tuple[Tensor, ...]
    target: Tensor


@dataclass(frozen=True)
class Lookup:
    """target byte = table[source byte + 128].

    Attributes:
        table: int8 (256,).
    """

    source: Tensor
    target: Tensor
    table: NDArray[np.int8]

    @property
    def sources(self) -> tuple[Tensor, ...]:
        return (self.source,)


@dataclass(frozen=True)
class Softmax:
    """Probabilities of a vector's codes, see `softmax.py`; the target's step is 1/256 and its codes are unsigned.

    Attributes:
        powers: uint32 (32,), from `softmax.powers_of` the source's step.
    """

    source: Tensor
    target: Tensor
    powers: NDArray[np.uint32]

    @property
    def sources(self) -> tuple[Tensor, ...]:
        return (self.source,)


Operation: TypeAlias = Convolution | Pool | Add | Rescale | Concat | Lookup | Softmax


@dataclass(frozen=True)
class IntegerProgram:
    """One task's network.

    Attributes:
        operations: in the order in which they run; each buffer is written once.
    """

    operations: tuple[Operation, ...]
    source: Tensor
    target: Tensor
