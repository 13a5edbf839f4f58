"""Words with one meaning everywhere: slot states, encodings, isolation, part names."""

from enum import IntEnum
from typing import Final, Literal

Encoding = Literal["codes", "planes", "shared"]
Isolation = Literal["exact", "none"]
DensityRule = Literal["uniform", "erk", "learned"]
"""How one density becomes densities of layers: the same for all, by their shapes, or by the scores of each task."""

VectorPrecision = Literal["half", "int8"]
"""How scales, norms, biases and free parameters are stored: 16-bit floats, or int8 steps of one 32-bit float per vector."""

FreeParameterRule = Literal["inherit", "own"]
"""Free parameters are those of no layer, norm or bias: class tokens, learned positions, layer scale, embeddings. A task keeps those that somebody in
its chain owns, or trains and owns all of them."""

GRANULARITY_PATTERN: Final = r"element|unit|block\([1-9][0-9]{0,3}\)|[1-9][0-9]?:[1-9][0-9]?"
"""Mask granularities: single weights, whole units, k consecutive input weights, n of every m consecutive input weights."""

TASK_NAME_PATTERN: Final = r"[a-z0-9_-]{1,100}"
"""Names of tasks: they stand in the names of files."""

TRUNK: Final = "trunk"
"""Name of the owner that is there before any task; no task may take it."""

MAX_CODE: Final = 127
"""Largest |q| a stored integer may have; q lies in [-MAX_CODE, MAX_CODE], so that it is symmetric and fits int8."""

WORD_BITS: Final = 32
"""Bits of one slot's word that owners may allocate, unless the recipe gives the store wider words."""

MAX_WORD_BITS: Final = 4096
"""Widest word a store may have."""


class SlotState(IntEnum):
    """What one task does at one slot (the position of one weight)."""

    PRUNED = 0
    REUSE = 1
    OWN = 2
    REFINE = 3
    """The frozen view's value plus a residual of the task's own."""
