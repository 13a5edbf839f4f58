"""Rounding by second-order error compensation (GPTQ, Frantar et al., ICLR 2023) on the entries of a codebook.

A layer computes v @ x for each row v of its weight. With gram = sum of x x^T over calibration inputs, rounding v to r costs (r - v) gram (r - v)^T.
Column by column, in the order of the columns: column j is rounded to the nearest entry, and all later columns of the row move so that they make up
for the error as well as they can,

    later -= (v_j - r_j) / u_jj * u_j,later        where u is upper triangular and u^T u = (gram + damping)^-1.

Deviations from the paper: entries of any codebook in place of an even grid; and only OWN slots are rounded and moved. A row's other slots (inherited
or pruned) stay, so each row has an inverse of its own, of the gram of its own columns; rows with the same own columns share it. Columns are not
handled in blocks, which changes the speed and not the result.
"""

import numpy as np
from numpy.typing import NDArray

from tsn_toolkit.numerics.errors import NumericsError
from tsn_toolkit.numerics.kmeans import assign_codes

Floats = NDArray[np.float64]


def gptq_round(values: Floats, own: NDArray[np.bool_], gram: Floats, codebook: NDArray[np.int8], *, damping: float) -> Floats:
    """Rounds the own slots of one weight to codebook entries.

    Args:
        values: weights in units of q (rows, columns).
        own: slots to round, shape of `values`; the others come back as they are.
        gram: sum of x x^T over inputs x (columns,): (columns, columns), symmetric, positive semidefinite.
        codebook: int8, ascending, at least one entry.
        damping: added to the diagonal, relative to its mean; positive.

    Returns:
        float64 (rows, columns), entries at own slots.

    Raises:
        NumericsError: shapes do not fit, or `damping` is not positive.
    """
    columns = values.shape[1]
    if own.shape != values.shape or gram.shape != (columns, columns):
        raise NumericsError(f"weights {values.shape}, own slots {own.shape} and gram {gram.shape} do not fit together")
    if not damping > 0:
        raise NumericsError(f"damping must be positive, or columns that see no input have no inverse; got {damping}")
    rounded = values.astype(np.float64)
    patterns, of_row = np.unique(own, axis=0, return_inverse=True)
    for index, pattern in enumerate(patterns):
        free = np.flatnonzero(pattern)
        if len(free):
            block = np.ix_(np.flatnonzero(of_row.reshape(-1) == index), free)
            rounded[block] = _compensate(rounded[block], _factor(gram[np.ix_(free, free)], damping), codebook)
    return rounded


def _factor(gram: Floats, damping: float) -> Floats:
    """Upper triangular u with u^T u = (gram + damping * mean diagonal)^-1."""
    mean = float(gram.diagonal().mean())
    damped = gram + (damping * mean if mean > 0 else 1.0) * np.eye(len(gram))
    factor: Floats = np.linalg.cholesky(np.linalg.inv(damped)).T
    return factor


def _compensate(values: Floats, factor: Floats, codebook: NDArray[np.int8]) -> Floats:
    """Rounds all columns of `values` (rows, own columns), from the first to the last."""
    left, rounded = values.copy(), np.empty_like(values)
    entries = codebook.astype(np.float64)
    for j in range(values.shape[1]):
        rounded[:, j] = entries[assign_codes(left[:, j], codebook)]
        error = (left[:, j] - rounded[:, j]) / factor[j, j]
        left[:, j + 1 :] -= error[:, None] * factor[j, j + 1 :]
    return rounded
