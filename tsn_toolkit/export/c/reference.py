"""The arithmetic of a C program in numpy: slow, exact, and made from the operations alone, not from the C text.

Formulas, with a code a, a stored weight w, a bias b, and scale(x) = floor((x * m + 2**(s - 1)) / 2**s) of `fixed_point.py`:

- convolution, linear: q = clip(scale_c(sum a * w + b_c))
- average pooling: q = clip(scale(sum of a over the window)), padding is code 0
- max pooling: the largest a of the window, padding left out
- addition: q = clip(floor((a1 * m1 + a2 * m2 + 2**(s - 1)) / 2**s))
- another step: q = clip(scale(a))
- an activation that is no clip: q = table[a], see `lookup.py`
- softmax: see `softmax.py`

clip is to [-128, 127] where the result is signed, else to [0, 255].
"""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

from tsn_toolkit.export.c.operations import Add, Concat, Convolution, IntegerProgram, Lookup, Operation, Pool, Rescale, Softmax, Tensor, Window
from tsn_toolkit.export.c.softmax import softmax_codes

Codes = NDArray[np.int64]


def quantize_input(program: IntegerProgram, x: NDArray[np.float32]) -> Codes:
    """Input codes of real values.

    Args:
        program: of the task.
        x: float32 (n, *input shape).

    Returns:
        int64 (n, *input shape): x / step rounded to nearest, halves to even, and clipped.
    """
    return _clip(np.rint(x.astype(np.float32) / np.float32(program.source.step)).astype(np.int64), program.source)


def stored_bytes(codes: Codes, tensor: Tensor) -> NDArray[np.int8]:
    """int8 as they lie in the program's memory."""
    return (codes - tensor.offset).astype(np.int8)


def run_reference(program: IntegerProgram, codes: Codes) -> Codes:
    """Output codes (n, *output shape) of input codes (n, *input shape)."""
    memory = {program.source.buffer: codes.astype(np.int64).reshape(len(codes), -1)}
    for operation in program.operations:
        values = [memory[source.buffer].reshape(len(codes), *source.planes) for source in operation.sources]
        memory[operation.target.buffer] = _result(operation, values).reshape(len(codes), -1)
    return memory[program.target.buffer].reshape(len(codes), *program.target.shape)


def _result(operation: Operation, values: list[Codes]) -> Codes:
    if isinstance(operation, Convolution):
        accumulators = _convolve(operation, values[0]) + operation.bias.astype(np.int64).reshape(-1, 1, 1)
        multipliers, shifts = operation.factors.multipliers.reshape(-1, 1, 1), operation.factors.shifts.reshape(-1, 1, 1)
        return _clip(_scale(accumulators, multipliers, shifts), operation.target)
    if isinstance(operation, Pool) and operation.kind == "max":
        largest: Codes = _windows(values[0], operation.window, fill=-(2**31)).max((4, 5))
        return largest
    if isinstance(operation, Pool):
        assert operation.factor is not None
        sums = _windows(values[0], operation.window, fill=0).sum((4, 5))
        return _clip(_scale(sums, operation.factor.multipliers, operation.factor.shifts), operation.target)
    if isinstance(operation, Add):
        first, second = (int(multiplier) for multiplier in operation.factors.multipliers)
        return _clip(_shift(values[0] * first + values[1] * second, operation.factors.shifts[:1]), operation.target)
    if isinstance(operation, Rescale):
        return _clip(_scale(values[0], operation.factor.multipliers, operation.factor.shifts), operation.target)
    if isinstance(operation, Lookup):
        looked_up: Codes = operation.table.astype(np.int64)[values[0] - operation.source.offset + 128] + operation.target.offset
        return looked_up
    if isinstance(operation, Softmax):
        return softmax_codes(values[0].reshape(len(values[0]), -1), operation.powers)
    assert isinstance(operation, Concat)
    return np.concatenate(values, 1)


def _convolve(operation: Convolution, x: Codes) -> Codes:
    """Sums of products, computed by products of float64 matrices: exact, since every partial sum is an integer below 2^31."""
    inputs, outputs = operation.codes.shape[1], len(operation.codes) // operation.groups
    windows = _windows(x, operation.window, fill=0)
    count, _, rows, columns = windows.shape[:4]
    parts = []
    for group in range(operation.groups):
        weights = operation.codes[group * outputs : (group + 1) * outputs].reshape(outputs, -1).astype(np.float64)
        seen = windows[:, group * inputs : (group + 1) * inputs].transpose(0, 2, 3, 1, 4, 5)
        sums = seen.reshape(count * rows * columns, -1).astype(np.float64) @ weights.T
        parts.append(sums.reshape(count, rows, columns, outputs).transpose(0, 3, 1, 2).astype(np.int64))
    return np.concatenate(parts, 1)


def _windows(x: Codes, window: Window, *, fill: int) -> Codes:
    """(n, channels, output rows, output columns, kernel rows, kernel columns)."""
    (down, right), (rows, columns) = window.padding, window.output(*x.shape[2:])
    padded = np.pad(x, ((0, 0), (0, 0), (down, down), (right, right)), constant_values=fill)
    result = np.empty((*x.shape[:2], rows, columns, *window.kernel), np.int64)
    for i, j in itertools.product(range(window.kernel[0]), range(window.kernel[1])):
        top, left = i * window.dilation[0], j * window.dilation[1]
        taken = padded[:, :, top : top + (rows - 1) * window.stride[0] + 1 : window.stride[0]]
        result[..., i, j] = taken[:, :, :, left : left + (columns - 1) * window.stride[1] + 1 : window.stride[1]]
    return result


def _scale(values: Codes, multipliers: NDArray[np.int32], shifts: NDArray[np.uint8]) -> Codes:
    return _shift(values * multipliers.astype(np.int64), shifts)


def _shift(products: Codes, shifts: NDArray[np.uint8]) -> Codes:
    divisors = np.int64(1) << shifts.astype(np.int64)
    quotients: Codes = np.floor_divide(products + divisors // 2, divisors)
    return quotients


def _clip(codes: Codes, tensor: Tensor) -> Codes:
    return np.clip(codes, -128, 127) if tensor.signed else np.clip(codes, 0, 255)
