"""scikit-learn's handwritten digits: 1,797 real images of 8x8 pixels, 10 classes, inside the package; nothing to download.

The data has no official test part. Ours follows from the data alone: of each class, in the order of the data set, every fifth example is test.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict

from tsn_toolkit.contracts import Split
from tsn_toolkit.data.examples import make_split
from tsn_toolkit.errors import DataError

TEST_EVERY = 5
GREY_STEP = 15
"""Pixels are 0..16; times 15 they use uint8 up to 240."""


class Options(BaseModel):
    """The source has no settings."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def load(path: Path | None, options: Options) -> tuple[Split, Split]:
    """Read train and test, x uint8 (n, 1, 8, 8).

    Args:
        path: not used; None.
        options: none.

    Returns:
        train (1,442 examples) and test (355), x uint8 (n, 1, 8, 8).

    Raises:
        DataError: scikit-learn is not installed, or a path is given.
    """
    if path is not None:
        raise DataError(f"data source digits is part of scikit-learn and reads no file, got `data.path` {path}. Remove the key.")
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as problem:
        raise DataError("data source digits needs scikit-learn, which is not installed. Install it: pip install scikit-learn.") from problem
    bunch = load_digits()
    x = (bunch.images * GREY_STEP).astype(np.uint8)[:, None]  # (1797, 1, 8, 8)
    y = bunch.target.astype(np.int64)
    rank = np.zeros(len(y), np.int64)  # position of each example within its class
    for label in np.unique(y):
        members = np.flatnonzero(y == label)
        rank[members] = np.arange(len(members))
    is_test = rank % TEST_EVERY == TEST_EVERY - 1
    return make_split(x[~is_test], y[~is_test], origin="digits"), make_split(x[is_test], y[is_test], origin="digits")
