"""CIFAR-10 and CIFAR-100 in their official binary format.

CIFAR-100: train.bin, test.bin; per image 1 byte coarse label, 1 byte fine label, 3,072 bytes of pixels.
CIFAR-10: data_batch_1.bin .. data_batch_5.bin, test_batch.bin; per image 1 byte label, 3,072 bytes of pixels.
Pixels are the red, green and blue plane, each 32 x 32, row by row. With fine labels the coarse ones are the groups of the examples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from tsn_toolkit.contracts import Reading, Split
from tsn_toolkit.data.examples import make_split, require_folder
from tsn_toolkit.errors import DataError

PIXEL_BYTES = 3 * 32 * 32


class Options(BaseModel):
    """Settings of the source."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    labels: Literal["fine", "coarse"] = "fine"
    """Which labels of CIFAR-100: 100 fine or 20 coarse. CIFAR-10 has only its own, which are `fine`."""
    official_size: bool = True
    """The files must hold the official number of images; false accepts any whole number of images."""


@dataclass(frozen=True)
class _Layout:
    """Files and label bytes of one of the two data sets; `classes` is the number of classes of each label byte."""

    train: tuple[str, ...]
    test: tuple[str, ...]
    train_images: int
    test_images: int
    classes: tuple[int, ...]


_CIFAR100 = _Layout(("train.bin",), ("test.bin",), 50_000, 10_000, (20, 100))
_CIFAR10 = _Layout(tuple(f"data_batch_{part}.bin" for part in range(1, 6)), ("test_batch.bin",), 10_000, 10_000, (10,))
_NAME_FILES = {100: "fine_label_names.txt", 20: "coarse_label_names.txt", 10: "batches.meta.txt"}
"""By number of classes."""


def load(path: Path | None, options: Options) -> tuple[Split, Split]:
    """Read train and test, x uint8 (n, 3, 32, 32).

    Raises:
        DataError: the folder or a file is missing, a file has another size than its images need, or a label is out of range.
    """
    expected = "train.bin and test.bin (CIFAR-100), or data_batch_1.bin to data_batch_5.bin and test_batch.bin (CIFAR-10)"
    folder = require_folder(path, source="cifar-binary", files=expected)
    if any((folder / name).is_file() for name in (*_CIFAR100.train, *_CIFAR100.test)):
        layout = _CIFAR100
    elif any((folder / name).is_file() for name in (*_CIFAR10.train, *_CIFAR10.test)):
        layout = _CIFAR10
    else:
        held = ", ".join(sorted(entry.name for entry in folder.iterdir())[:8]) or "nothing"
        raise DataError(f"data folder {folder} holds {held}; source cifar-binary expects {expected}. Put them there or correct `data.path`.")
    if options.labels == "coarse" and layout is _CIFAR10:
        raise DataError(f"data folder {folder} holds CIFAR-10, which has no 'coarse' labels. Set `data.options.labels` to fine.")
    column = 0 if options.labels == "coarse" else len(layout.classes) - 1
    reading = Reading(_class_names(folder / _NAME_FILES[layout.classes[column]], layout.classes[column]))
    train = _load_part(folder, layout.train, layout, column, layout.train_images if options.official_size else None)
    test = _load_part(folder, layout.test, layout, column, layout.test_images if options.official_size else None)
    return replace(train, reading=reading), replace(test, reading=reading)


def _class_names(file: Path, classes: int) -> tuple[str, ...]:
    """The names that the official archive has beside the images, one a line; none where the file is missing or holds another number of them."""
    if not file.is_file():
        return ()
    names = tuple(file.read_text(encoding="utf-8", errors="replace").split())
    return names if len(names) == classes else ()


def _load_part(folder: Path, names: Sequence[str], layout: _Layout, column: int, images: int | None) -> Split:
    rows = [_read_rows(folder / name, layout.classes, images) for name in names]
    every = rows[0] if len(rows) == 1 else np.concatenate(rows)
    if len(layout.classes) == 2:
        _check_hierarchy(every[:, 0], every[:, 1], folder / names[0])
    pixels = every[:, len(layout.classes) :].reshape(-1, 3, 32, 32)
    return make_split(pixels, every[:, column], origin=str(folder / names[0]), group=every[:, 0] if column == 1 else None)


def _check_hierarchy(coarse: NDArray[np.uint8], fine: NDArray[np.uint8], file: Path) -> None:
    """Every fine class belongs to one coarse class; a file whose labels were shuffled or shifted breaks that."""
    for label in np.unique(fine):
        above = np.unique(coarse[fine == label])
        if len(above) > 1:
            raise DataError(
                f"{file}: fine label {label} appears under the coarse labels {above.tolist()}, expected one. It is mislabelled: get it again."
            )


def _read_rows(file: Path, classes: tuple[int, ...], images: int | None) -> NDArray[np.uint8]:
    """One file as (images, label bytes + 3072) uint8, checked."""
    row_bytes = len(classes) + PIXEL_BYTES
    if not file.is_file():
        raise DataError(f"data file {file} does not exist. Put it there or correct `data.path`.")
    size_bytes = file.stat().st_size
    if images is not None and size_bytes != images * row_bytes:
        raise DataError(
            f"{file} has {size_bytes} bytes, expected {images * row_bytes} ({images} images of {row_bytes} bytes). It is truncated or another file: "
            "get it again; for a subset of the official images set `data.options.official_size` to false."
        )
    if size_bytes == 0 or size_bytes % row_bytes:
        whole = max(1, size_bytes // row_bytes)
        raise DataError(f"{file} has {size_bytes} bytes, expected a multiple of {row_bytes}, such as {whole * row_bytes}. Get it again.")
    rows = np.fromfile(file, np.uint8).reshape(-1, row_bytes)
    for column, count in enumerate(classes):
        wrong = np.flatnonzero(rows[:, column] >= count)
        if len(wrong):
            raise DataError(
                f"{file}: image {wrong[0]} has label {rows[wrong[0], column]} (label byte {column}), expected 0 to {count - 1}. "
                "It is damaged or another data set: get it again."
            )
    return rows
