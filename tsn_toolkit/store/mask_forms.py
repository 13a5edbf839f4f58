"""How a part holds the mask of one layer: the words that the writer, the reader and the size report share."""

from dataclasses import dataclass
from enum import IntEnum

MAX_DEPTH = 7
"""Most ancestors whose use of a slot is its context."""


class Layout(IntEnum):
    """What stands in the file for the mask of one layer."""

    SLOTS = 0
    """The mask bit of every kept slot, entropy-coded in its context."""
    BITMAP = 1
    """The mask bit of every kept slot, as it is."""
    POSITIONS = 2
    """The positions of the marked slots among the kept ones."""
    PARENT = 3
    """Nothing: exactly the slots that the parent uses are marked."""
    BLOCKS = 4
    """One bit per block of k consecutive kept slots of an output channel, entropy-coded in the context of the block's first slot."""
    CHOICES = 5
    """n of every m consecutive kept slots of an output channel, entropy-coded; what follows from the count is left out."""


class Marks(IntEnum):
    """Which slots a mask marks."""

    USED = 0
    """Those that the task uses."""
    OWN = 1
    """Those in which the task owns bits (OWN or REFINE)."""


@dataclass(frozen=True)
class MaskForm:
    """How one layer's states are written.

    Attributes:
        layout: of the mask.
        marks: which slots the mask marks.
        depth: ancestors in the context of a mask bit.
        state_depth: ancestors in the context of what the mask leaves open.
        sizes: (k,) of BLOCKS, (n, m) of CHOICES, else ().
    """

    layout: Layout
    marks: Marks
    depth: int = 0
    state_depth: int = 0
    sizes: tuple[int, ...] = ()
