"""Random numbers that follow from (seed, index, purpose) alone.

Random orders are argsorts of Philox's raw 64-bit output, which no numpy version changes.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray


class Stream(IntEnum):
    """What a random stream is used for; each gets numbers of its own."""

    CLASS_ORDER = 1
    VALIDATION = 2
    PIXELS = 3
    TEST = 4
    GROUP_ORDER = 5


def order_expression(seed: int, index: int, stream: Stream, count: int) -> str:
    """The order that sorts `raw_numbers`, as an expression of numpy: for who has nothing but numpy."""
    numbers = f"numpy.random.Philox(key=[{seed}, {index}], counter=[0, 0, 0, {int(stream)}]).random_raw({count})"
    return f"numpy.argsort({numbers}, kind='stable')"


def raw_numbers(seed: int, index: int, stream: Stream, count: int) -> NDArray[np.uint64]:
    """`count` raw numbers of the stream; the purpose is the counter's highest word, so that streams never meet."""
    philox = np.random.Philox(key=np.array([seed, index], np.uint64), counter=np.array([0, 0, 0, int(stream)], np.uint64))
    return np.asarray(philox.random_raw(count), np.uint64)
