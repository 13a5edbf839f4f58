"""The MNIST format, raw or gzip: two zero bytes, a type code (8 = uint8), the number of dimensions, each dimension as big-endian uint32, the data."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from tsn_toolkit.contracts import Split
from tsn_toolkit.data.examples import make_split, require_folder
from tsn_toolkit.errors import DataError

UINT8_CODE = 8
DEFLATE_LIMIT = 1040
"""Deflate cannot shrink more than about 1,032 times; a header that promises more bytes lies."""


class Options(BaseModel):
    """File names in the folder; `.gz` is tried as well. Without test files (both null) there is no test part."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    train_images: str = "train-images-idx3-ubyte"
    """Images of the training part."""
    train_labels: str = "train-labels-idx1-ubyte"
    """Their labels."""
    test_images: str | None = "t10k-images-idx3-ubyte"
    """Images of the test part."""
    test_labels: str | None = "t10k-labels-idx1-ubyte"
    """Their labels."""


def load(path: Path | None, options: Options) -> tuple[Split, Split | None]:
    """Read train and test, x uint8 (n, 1, h, w).

    Raises:
        DataError: the folder or a file is missing, truncated, too long, of another type or shape, or images and labels differ in number.
    """
    names = [name for name in options.model_dump().values() if name is not None]
    folder = require_folder(path, source="idx", files=", ".join(names) + " (each raw or .gz)")
    if (options.test_images is None) != (options.test_labels is None):
        raise DataError(
            f"`data.options.test_images` is {options.test_images} and `test_labels` {options.test_labels}; give both files or null for both."
        )
    train = _load_part(folder, options.train_images, options.train_labels)
    if options.test_images is None or options.test_labels is None:
        return train, None
    return train, _load_part(folder, options.test_images, options.test_labels)


def _load_part(folder: Path, images: str, labels: str) -> Split:
    image_file, label_file = _find(folder, images), _find(folder, labels)
    x, y = read_idx(image_file, dimensions=3), read_idx(label_file, dimensions=1)
    if len(x) != len(y):
        raise DataError(f"{label_file} holds {len(y)} labels, {image_file} holds {len(x)} images; the two must belong together. Get both again.")
    return make_split(x[:, None], y, origin=str(image_file))


def _find(folder: Path, name: str) -> Path:
    for candidate in (folder / name, folder / f"{name}.gz"):
        if candidate.is_file():
            return candidate
    held = ", ".join(sorted(entry.name for entry in folder.iterdir())[:8]) or "nothing"
    raise DataError(f"data file {folder / name} (or .gz) does not exist; the folder holds {held}. Put it there or correct `data.options`.")


def read_idx(file: Path, *, dimensions: int) -> NDArray[np.uint8]:
    """Read one idx file of uint8.

    Args:
        file: raw, or gzip when its name ends in `.gz`.
        dimensions: number of dimensions it must have.

    Raises:
        DataError: not an idx file of uint8 with that many dimensions, or its length is not what its header says.
    """
    is_gzip = file.suffix == ".gz"
    try:
        with gzip.open(file) if is_gzip else file.open("rb") as stream:
            return _read_stream(cast(BinaryIO, stream), file, dimensions, file.stat().st_size * (DEFLATE_LIMIT if is_gzip else 1))
    except (EOFError, zlib.error, gzip.BadGzipFile) as problem:
        raise DataError(f"{file} is a damaged or truncated gzip file ({problem}). Get it again.") from problem
    except OSError as problem:
        raise DataError(f"{file} cannot be read ({problem}). Check the file.") from problem


def _read_stream(stream: BinaryIO, file: Path, dimensions: int, limit_bytes: int) -> NDArray[np.uint8]:
    head = stream.read(4)
    expected = bytes([0, 0, UINT8_CODE, dimensions])
    if head != expected:
        raise DataError(
            f"{file} starts with the bytes {head.hex(' ') or '(none)'}, expected {expected.hex(' ')} (idx, uint8, {dimensions} dimensions). "
            "It is another kind of file: correct the name in `data.options`."
        )
    sizes = stream.read(4 * dimensions)
    if len(sizes) < 4 * dimensions:
        raise DataError(f"{file} is truncated inside its header: {4 + len(sizes)} bytes, expected {4 + 4 * dimensions}. Get it again.")
    shape = struct.unpack(f">{dimensions}I", sizes)
    size_bytes = math.prod(shape)
    body = stream.read(min(size_bytes, limit_bytes) + 1)
    if len(body) != size_bytes:
        actual = f"more than {size_bytes}" if len(body) > size_bytes else str(len(body))
        raise DataError(f"{file} holds {actual} bytes of data, its header says {size_bytes} {shape}. It is truncated or damaged: get it again.")
    return np.frombuffer(body, np.uint8).reshape(shape)
