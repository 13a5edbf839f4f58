"""Arrays of a source into a checked `Split`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from tsn_toolkit.contracts import Reading, Split
from tsn_toolkit.errors import DataError
from tsn_toolkit.files import seen_from

UNCHANGED = Reading()
"""Of arrays that are used as they come."""


def make_split(
    x: ArrayLike | torch.Tensor,
    y: ArrayLike | torch.Tensor,
    *,
    origin: str,
    group: ArrayLike | torch.Tensor | None = None,
    recording: ArrayLike | torch.Tensor | None = None,
    reading: Reading = UNCHANGED,
) -> Split:
    """Check examples and labels and bring them to the types of `Split`.

    Args:
        x: (n, ...) uint8 or any float; floats become float32.
        y: (n,) integers >= 0.
        origin: file or factory that the arrays came from, for messages.
        group: (n,) integers >= 0, the subject or superclass of each example, or None.
        recording: (n,) integers >= 0, the same for examples that were cut from one recording, or None.
        reading: how the arrays were made from what is outside.

    Raises:
        DataError: wrong dtype or shape, different lengths, no example or one without a value, a label that is negative or beyond int64, or a value
            that is not finite.
    """
    images, labels = _as_array(x, origin), _as_array(y, origin)
    if images.ndim < 2 or (images.dtype != np.uint8 and images.dtype.kind != "f"):
        raise DataError(f"{origin}: examples must be uint8 or float of shape (n, ...), got {images.dtype} {images.shape}. Convert them.")
    if 0 in images.shape[1:]:
        raise DataError(f"{origin}: examples of shape {images.shape[1:]} hold no value. Name other data.")
    targets = _whole_numbers(labels, len(images), "label", origin)
    groups, recordings = (
        None if numbers is None else _whole_numbers(_as_array(numbers, origin), len(images), word, origin)
        for word, numbers in (("group", group), ("recording", recording))
    )
    if images.dtype != np.uint8:
        with np.errstate(over="ignore"):  # what overflows is reported below
            images = images.astype(np.float32)
        if not np.isfinite(images).all():
            first = int(np.flatnonzero(~np.isfinite(images).reshape(len(images), -1).all(axis=1))[0])
            raise DataError(f"{origin}: example {first} holds a value that is not finite in float32. Clean the data.")
    return Split(torch.from_numpy(np.require(images, requirements=("C", "W"))), targets, groups, recordings, reading)


def _whole_numbers(values: NDArray[Any], count: int, word: str, origin: str) -> torch.Tensor:
    """Labels or groups, checked: one whole number >= 0 per example, int64 (n,)."""
    if values.ndim != 1 or values.dtype.kind not in "iu":
        raise DataError(f"{origin}: {word}s must be integers of shape (n,), got {values.dtype} {values.shape}. Convert them.")
    if count != len(values) or len(values) == 0:
        raise DataError(f"{origin}: {count} examples for {len(values)} {word}s; there must be one {word} per example, and at least one.")
    if int(values.min()) < 0:
        raise DataError(f"{origin}: {word} {int(values.min())} at position {int(values.argmin())}; {word}s must be 0 or more. Correct the {word}s.")
    if int(values.max()) > np.iinfo(np.int64).max:
        raise DataError(f"{origin}: {word} {int(values.max())} at position {int(values.argmax())} has more than 63 bits. Number the {word}s anew.")
    return torch.from_numpy(values.astype(np.int64))


def _as_array(values: ArrayLike | torch.Tensor, origin: str) -> NDArray[Any]:
    if isinstance(values, torch.Tensor):
        plain = values.detach().cpu()
        return (plain.float() if plain.dtype == torch.bfloat16 else plain).numpy()
    try:
        return np.asarray(values)
    except (TypeError, ValueError) as problem:
        raise DataError(f"{origin}: a {type(values).__name__} is no array ({problem}). Return numpy arrays or tensors.") from problem


def require_folder(path: Path | None, *, source: str, files: str) -> Path:
    """The folder of a source that needs one.

    Raises:
        DataError: no path is given or it is no folder; names the folder, TSN_DATA and the expected files.
    """
    if path is None:
        raise DataError(f"data source {source} needs `data.path`, the folder that holds {files}. Set it, for example to ${{TSN_DATA}}/{source}.")
    if not path.is_dir():
        raise DataError(
            f"data folder {path} does not exist{seen_from(path)}; source {source} expects {files} in it. "
            "Correct `data.path`, or TSN_DATA where it begins with that."
        )
    return path
