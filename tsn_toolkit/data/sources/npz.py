"""One numpy archive with the examples, the labels, which of them are test, whose they are and from which recording. Pickled objects are refused."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from tsn_toolkit.contracts import Split
from tsn_toolkit.data.examples import make_split
from tsn_toolkit.data.held_out import cells_of
from tsn_toolkit.data.recordings import recordings_by_overlap
from tsn_toolkit.errors import DataError
from tsn_toolkit.files import seen_from
from tsn_toolkit.registry import did_you_mean

_UNREADABLE = (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, MemoryError, RuntimeError)
"""What numpy and zipfile raise of damaged, encrypted or unknown archives; a damaged header may ask for more memory than there is."""


class Options(BaseModel):
    """Names of the arrays in the archive, and how examples are read."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    x: str = "x"
    """Examples (n, ...)."""
    y: str = "y"
    """Integers (n,)."""
    is_test: str | None = "is_test"
    """Bool or 0/1 (n,); null: there is no test part."""
    subject: str | None = None
    """Integers (n,) where there are subjects; null: none."""
    recording: str | None = None
    """Integers (n,), the same for windows of one recording, which are held out together; null: none."""
    overlap: float | None = Field(None, gt=0, lt=1)
    """The fraction of a window that the next one of its recording begins with; recordings are then found by it, within a subject."""
    shape: tuple[Annotated[int, Field(ge=1)], ...] | None = Field(None, min_length=1)
    """The shape in which the numbers of an example are read; null: as the archive has it."""
    channels_last: bool = False
    """Of that shape the last dimension holds the channels; it is moved to the front."""

    @model_validator(mode="after")
    def _one_way(self) -> Options:
        if self.recording is not None and self.overlap is not None:
            raise ValueError("`recording` names the recordings and `overlap` finds them; set one of the two")
        return self


def load(path: Path | None, options: Options) -> tuple[Split, Split | None]:
    """Read train and test; x uint8 or float32 as in the archive.

    Raises:
        DataError: the file is missing or damaged, an array is missing, holds objects, or has another shape than the others.
    """
    if path is None:
        raise DataError("data source npz needs `data.path`, an .npz file. Set it, for example to ${TSN_DATA}/har/har_f16.npz.")
    keys = [key for key in (options.x, options.y, options.is_test, options.subject, options.recording) if key is not None]
    if not path.is_file():
        raise DataError(
            f"data file {path} does not exist{seen_from(path)}; source npz expects an .npz file with the arrays {', '.join(keys)}. "
            "Correct `data.path`, or TSN_DATA where it begins with that."
        )
    arrays = dict(zip(keys, _read_arrays(path, keys), strict=True))
    x, y = arrays[options.x], arrays[options.y]
    if len(x) != len(y):
        raise DataError(f"{path}: array {options.x!r} has {len(x)} examples for {len(y)} labels in {options.y!r}; the two must belong together.")
    subject, recording = (None if key is None else arrays[key] for key in (options.subject, options.recording))
    whole = make_split(_laid_out(x, options, path), y, origin=str(path), group=subject, recording=recording)
    if options.overlap is not None:
        recordings = recordings_by_overlap(whole.x, cells_of(whole), options.overlap, origin=str(path))
        whole = replace(whole, recording=recordings)
    if options.is_test is None:
        return whole, None
    test = _test_positions(path, arrays[options.is_test], y.shape, options.is_test)
    return whole.take(~test), whole.take(test)


def _laid_out(x: NDArray[np.generic], options: Options, path: Path) -> NDArray[np.generic]:
    """The examples in the shape of the options, channels first."""
    if options.shape is not None:
        if math.prod(options.shape) != math.prod(x.shape[1:]):
            raise DataError(f"{path}: examples of shape {x.shape[1:]} cannot be read as {options.shape}: another number of values. Correct it.")
        x = x.reshape(len(x), *options.shape)
    return np.moveaxis(x, -1, 1) if options.channels_last and x.ndim > 2 else x


def _test_positions(path: Path, is_test: NDArray[np.generic], shape: tuple[int, ...], key: str) -> torch.Tensor:
    """Which examples are test, bool (n,)."""
    if is_test.shape != shape or is_test.dtype.kind not in "biuf" or not np.isin(is_test, (0, 1)).all():
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
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise DataError(f"{path} is a single array; source npz expects an .npz archive with {', '.join(keys)}. Write it with numpy.savez.")
        with archive:
            for key in keys:
                if key not in archive.files:
                    hint = did_you_mean(key, archive.files)
                    raise DataError(f"{path} has no array {key!r}{hint}; it holds {', '.join(archive.files)}. Name the array in `data.options`.")
                array = archive[key]
                if not isinstance(array, np.ndarray):  # numpy gives the bytes of a member that is no .npy
                    raise DataError(f"{path}: {key!r} is no array but a file of another kind. Write the archive with numpy.savez.")
                if array.ndim == 0:
                    raise DataError(f"{path}: array {key!r} is a single value; it needs one entry per example.")
                arrays.append(array)
    except _UNREADABLE as problem:
        raise DataError(
            f"{path} is no readable .npz archive ({problem}): damaged, truncated, encrypted, or with pickled objects. Write it again."
        ) from problem
    return arrays
