"""Words with one meaning everywhere: slot states, encodings, isolation, part names."""

from enum import IntEnum
from typing import Final, Literal

Encoding = Literal["codes", "shared"]
Granularity = Literal["element", "unit"]
Isolation = Literal["exact", "none"]

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
