"""The inputs that a package records: synthetic, seeded, and where the task's own inputs lie.

Outputs at their clip limits hide what happened before them, and equal outputs are one measurement: so inputs vary in level, contrast and coarseness,
half of them smooth patterns and half mostly noise, and they are drawn anew, in the end with less contrast, until the reference answers them apart.
Inputs of a task that reads texts are texts of random words. No example of the task is used.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from tsn_toolkit.contracts import ActivationRange, ExtractedModel
from tsn_toolkit.export.manifest import Preprocessing

UINT8_SCALING = 1 / 255
MAX_CLIPPED = 0.1
"""Largest share of output codes at a limit of int8 or uint8."""
_CONTRASTS = (1.0, 1.0, 0.5, 0.5, 0.25, 0.125)
_LIMITS = (-128, 127, 255)
_USUAL_SPREAD = 3.0
"""Where normalised inputs lie when nothing else is known, in standard deviations."""

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class InputRange:
    """Where the inputs of a task lie as the network sees them.

    Attributes:
        low, high: one value per channel, or one for all.
        one_hot: at each position one channel at most is high and all others are low: the columns of a text.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    one_hot: bool = False


@dataclass(frozen=True)
class RecordedInputs:
    """What was drawn.

    Attributes:
        x: float16 (n, ...), which holds them exactly as they are used.
        contrast: 1.0 where they fill the range, less where outputs would lie at their limits.
        note: what could not be reached, or "".
    """

    x: NDArray[np.float16]
    contrast: float
    note: str

    def record(self, span: InputRange) -> dict[str, Any]:
        """As a manifest states it."""
        return {"low": list(span.low), "high": list(span.high), "one_hot": span.one_hot, "contrast": self.contrast}


def input_range(preprocessing: Preprocessing, extracted: ExtractedModel, ranges: Mapping[str, ActivationRange]) -> InputRange:
    """The range of a task's inputs after normalisation, or of the numbers that an embedding looks up.

    Args:
        preprocessing: of the task; uint8 images lie in [0, 1] before their mean is taken away.
        extracted: the task's small model.
        ranges: its activation ranges; step and sign of the input's quantizer stand for the range of data that are no uint8 images.
    """
    if extracted.numbers_below:
        highest = np.float16(extracted.numbers_below - 1)
        return InputRange((0.0,), (float(highest if highest < extracted.numbers_below else np.nextafter(highest, np.float16(0))),))
    if preprocessing.scaling == UINT8_SCALING:
        mean, std = preprocessing.mean or (0.0,), preprocessing.std or (1.0,)
        low, high = ([(raw - centre) / spread for centre, spread in zip(mean, std, strict=True)] for raw in (0.0, 1.0))
        return InputRange(tuple(low), tuple(high), one_hot=preprocessing.text_file is not None)
    for name in _input_quantizers(extracted):
        if (found := ranges.get(name)) is not None:
            return InputRange((-127 * found.scale if found.signed else 0.0,), ((127 if found.signed else 255) * found.scale,))
    return InputRange((-_USUAL_SPREAD,), (_USUAL_SPREAD,))


def record_inputs(
    shape: tuple[int, ...],
    span: InputRange,
    answer: Callable[[torch.Tensor], Answer],
    outputs_of: Callable[[Answer], Sequence[tuple[NDArray[np.float32], float | None]]],
    *,
    count: int,
    seed: int,
) -> tuple[RecordedInputs, Answer]:
    """Inputs that a reference answers apart and inside its limits, and its answer.

    Args:
        shape: of one input.
        span: see `InputRange`.
        answer: of the reference for float32 inputs (count, *shape).
        outputs_of: (outputs (count, ...), step of their quantizer or None) of each task that an answer holds.
        count: of inputs.
        seed: of the drawing.
    """
    best: tuple[RecordedInputs, Answer] | None = None
    least = float("inf")
    for attempt, contrast in enumerate(_CONTRASTS):
        x = draw_inputs(shape, span, count, [seed, attempt], contrast=contrast)
        found = answer(torch.from_numpy(x.astype(np.float32)))
        clipped = max(0.0 if step is None else clipped_share(outputs, step) for outputs, step in outputs_of(found))
        distinct = min(len(np.unique(outputs, axis=0)) for outputs, _ in outputs_of(found))
        missing = max(0.0, clipped - MAX_CLIPPED) + max(0.0, min(count, 2) - distinct)
        if missing < least:
            text = f"The recorded inputs tell little: {distinct} different output(s) for {count}, {clipped:.0%} of the output codes at their limits."
            best, least = (RecordedInputs(x, contrast, text if missing else ""), found), missing
        if not missing:
            break
    assert best is not None
    return best


def clipped_share(outputs: NDArray[np.float32], step: float) -> float:
    """Share of the output codes at a limit of int8 or uint8; one code of a uint8 output in 256 counts without being one."""
    return float(np.isin(np.rint(outputs / np.float32(step)), _LIMITS).mean())


def draw_inputs(shape: tuple[int, ...], span: InputRange, count: int, seed: Sequence[int], *, contrast: float = 1.0) -> NDArray[np.float16]:
    """Seeded inputs (count, *shape) inside a range; `contrast` below 1 draws them to 0, or to the range's end that is nearest to it."""
    generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed)))
    draw = _text if span.one_hot else _pattern
    units = np.stack([draw(shape, generator, index) for index in range(count)])
    wide = (-1, *[1] * (len(shape) - 1))
    low, high = (np.array(side).reshape(wide) for side in (span.low, span.high))
    centre = np.clip(0.0, low, high)
    return (centre + contrast * (low + (high - low) * units - centre)).astype(np.float16)


def _text(shape: tuple[int, ...], generator: np.random.Generator, _: int) -> NDArray[np.float64]:
    """One text (columns, positions) of random words: 1.0 in the column of each, nothing behind its end."""
    columns = np.zeros(shape)
    length = int(generator.integers(1, shape[1] + 1))
    columns[generator.integers(0, shape[0], length), np.arange(length)] = 1.0
    return columns


def _pattern(shape: tuple[int, ...], generator: np.random.Generator, index: int) -> NDArray[np.float64]:
    """One input in [0, 1]: a coarse random grid, interpolated along every axis but the channels', mixed with uniform noise, steepened."""
    grid = generator.random((*shape[:1], *(min(size, int(generator.integers(2, 9))) for size in shape[1:])))
    for axis in range(1, len(shape)):
        grid = _stretched(grid, axis, shape[axis])
    noise = generator.uniform(0, 0.3) if index % 2 == 0 else generator.uniform(0.5, 1)
    mixed = (1 - noise) * grid + noise * generator.random(shape)
    return np.clip((mixed - generator.uniform(0.3, 0.7)) * generator.uniform(1, 12 if len(shape) > 1 else 3) + 0.5, 0, 1)


def _stretched(grid: NDArray[np.float64], axis: int, size: int) -> NDArray[np.float64]:
    """Linear interpolation to `size` points along one axis, operation by operation, so that every machine gives the same bits."""
    places = np.arange(size) * ((grid.shape[axis] - 1) / max(1, size - 1))
    below = np.minimum(places.astype(np.int64), max(0, grid.shape[axis] - 2))
    above = np.minimum(below + 1, grid.shape[axis] - 1)
    share = (places - below).reshape(-1, *[1] * (grid.ndim - 1 - axis))
    return np.take(grid, below, axis) * (1 - share) + np.take(grid, above, axis) * share


def _input_quantizers(extracted: ExtractedModel) -> tuple[str, ...]:
    """Names that the quantizer of the input may have: after forward's argument, or in layerwise mode after the first layer."""
    argument = next(iter(inspect.signature(extracted.model.forward).parameters), "")
    layer = next((name for name, _ in extracted.model.named_modules() if name in extracted.q), "")
    return f"{argument}_quant", f"{argument}_1_quant", f"{layer}.input_quant"
