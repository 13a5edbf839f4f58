"""One numpy archive with the examples, the labels, which of them are test, and whose they are. Pickled objects are refused."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from tsn_toolkit.contracts import Split
from tsn_toolkit.data.examples import make_split
from tsn_toolkit.errors import DataError
from tsn_toolkit.registry import did_you_mean


class Options(BaseModel):
    """Names of the arrays in the archive: x (n, ...), y (n,) integers, is_test (n,) bool or 0/1 (null: there is no test part), and, where there
    are subjects, subject (n,) integers (null: none)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    x: str = "x"
    y: str = "y"
    is_test: str | None = "is_test"
    subject: str | None = None


def load(path: Path | None, options: Options) -> tuple[Split, Split | None]:
    """Read train and test; x uint8 or float32 as in the archive.

    Raises:
        DataError: the file is missing or damaged, an array is missing, holds objects, or has another shape than the others.
    """
    if path is None:
        raise DataError("data source npz needs `data.path`, an .npz file. Set it, for example to ${TSN_DATA}/har/har_f16.npz.")
    keys = [key for key in (options.x, options.y, options.is_test, options.subject) if key is not None]
    if not path.is_file():
        raise DataError(
            f"data file {path} does not exist; source npz expects an .npz file with the arrays {', '.join(keys)}. "
            "Set TSN_DATA to the folder that holds the data sets, or correct `data.path`."
        )
    arrays = dict(zip(keys, _read_arrays(path, keys), strict=True))
    x, y = arrays[options.x], arrays[options.y]
    if len(x) != len(y):
        raise DataError(f"{path}: array {options.x!r} has {len(x)} examples for {len(y)} labels in {options.y!r}; the two must belong together.")
    whole = make_split(x, y, origin=str(path), group=None if options.subject is None else arrays[options.subject])
    if options.is_test is None:
        return whole, None
    test = _test_positions(path, arrays[options.is_test], y.shape, options.is_test)
    return whole.take(~test), whole.take(test)


def _test_positions(path: Path, is_test: NDArray[np.generic], shape: tuple[int, ...], key: str) -> torch.Tensor:
    """Which examples are test, bool (n,)."""
    if is_test.shape != shape or not np.isin(is_test, (0, 1)).all():
        raise DataError(
            f"{path}: array {key!r} must be bool or 0/1 of the shape of the labels {shape}, got {is_test.dtype} {is_test.shape}. Correct the array."
        )
    test = is_test.astype(np.bool_)
    if test.all() or not test.any():
        raise DataError(f"{path}: {int(test.sum())} of {len(test)} examples are test by {key!r}; both parts need some.")
    return torch.from_numpy(test)


def _read_arrays(path: Path, keys: Sequence[str]) -> list[NDArray[np.generic]]:
    arrays = []
    try:
        with np.load(path, allow_pickle=False) as archive:
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise DataError(f"{path} is a single array; source npz expects an .npz archive with {', '.join(keys)}. Write it with numpy.savez.")
            for key in keys:
                if key not in archive.files:
                    hint = did_you_mean(key, archive.files)
                    raise DataError(f"{path} has no array {key!r}{hint}; it holds {', '.join(archive.files)}. Name the array in `data.options`.")
                array = archive[key]
                if array.ndim == 0:
                    raise DataError(f"{path}: array {key!r} is a single value; it needs one entry per example.")
                arrays.append(array)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, NotImplementedError, MemoryError) as problem:
        raise DataError(f"{path} is no readable .npz archive ({problem}): damaged, truncated, or with pickled objects. Write it again.") from problem
    return arrays
