"""Classes that have names in place of numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tsn_toolkit.errors import DataError


def number_classes(names: Sequence[str], known: Sequence[str], *, origin: str) -> NDArray[np.int64]:
    """Labels of examples whose classes have names.

    Args:
        names: of each example.
        known: classes of the training part, sorted; a class's number is its position.
        origin: where the examples come from, for messages.

    Returns:
        int64 (n,).

    Raises:
        DataError: a name is no class of the training part.
    """
    number = {name: position for position, name in enumerate(known)}
    unknown = sorted(set(names) - set(number))
    if unknown:
        shown = ", ".join(known[:8]) + (", ..." if len(known) > 8 else "")
        raise DataError(f"{origin}: class {unknown[0]!r} does not occur in training, which has {shown}. Correct the labels or add training examples.")
    return np.array([number[name] for name in names], np.int64)
