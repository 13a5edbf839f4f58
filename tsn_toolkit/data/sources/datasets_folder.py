"""A Hugging Face data set as `save_to_disk` writes it: a folder per part, or one part alone. Needs `datasets`; nothing is downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from tsn_toolkit.contracts import Reading, Split
from tsn_toolkit.data.class_names import number_classes
from tsn_toolkit.data.examples import make_split, require_folder
from tsn_toolkit.data.sources.image_folder import eight_bits
from tsn_toolkit.errors import DataError
from tsn_toolkit.registry import did_you_mean


class Options(BaseModel):
    """Settings of the source."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    train: str = "train"
    """Part to learn from; a folder that holds one part alone has no names, and this is not read."""
    test: str | None = "test"
    """Part to test on; null: there is none."""
    x: str = "image"
    """Column of the examples: images, or arrays of numbers of one shape."""
    y: str = "label"
    """Column of the labels: whole numbers, or names."""
    channels: Literal[1, 3] = 3
    """Grey or colour, of images; those of the other kind are turned into it."""


def load(path: Path | None, options: Options) -> tuple[Split, Split | None]:
    """Read train and test; x uint8 (n, channels, height, width) of images, else as the numbers are.

    Raises:
        DataError: `datasets` is not installed; the folder is no such data set; a part or column is missing; examples are of different shapes; a label
            does not occur in training.
    """
    folder = require_folder(path, source="datasets-folder", files="what `save_to_disk` wrote")
    loaded = _load_from_disk(folder)
    if not isinstance(loaded, dict):
        if options.test is not None:
            raise DataError(f"{folder} holds one part alone. Set `data.options.test` to null and `data.test_split` to take a test part out of it.")
        parts = [loaded]
    else:
        parts = [_entry(loaded, name, folder, "part", key) for key, name in (("train", options.train), ("test", options.test)) if name is not None]
    columns = [[_entry_column(part, name, folder, key) for part in parts] for key, name in (("x", options.x), ("y", options.y))]
    names, labels = _labels(columns[1], folder)
    reading = Reading(names or tuple(getattr(parts[0].features[options.y], "names", None) or ()))
    arrays = (_array(x, options.channels, folder) for x in columns[0])
    splits = [make_split(x, y, origin=str(folder), reading=reading) for x, y in zip(arrays, labels, strict=True)]
    return splits[0], splits[1] if len(splits) > 1 else None


def _load_from_disk(folder: Path) -> Any:
    try:
        from datasets import load_from_disk
    except ModuleNotFoundError as problem:
        raise DataError(
            "data source datasets-folder needs `datasets`, which is not installed. Install it: pip install 'tsn-toolkit[datasets]'."
        ) from problem
    try:
        return load_from_disk(str(folder))
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise DataError(f"{folder} is no data set that `save_to_disk` wrote ({problem}). Name the folder that was given to it.") from problem


def _entry(loaded: dict[str, Any], name: str, folder: Path, word: str, key: str) -> Any:
    if name not in loaded:
        raise DataError(f"{folder} has no {word} {name!r}{did_you_mean(name, loaded)}; it has {', '.join(loaded)}. Correct `data.options.{key}`.")
    return loaded[name]


def _entry_column(part: Any, name: str, folder: Path, key: str) -> list[Any]:
    _entry(dict.fromkeys(part.column_names), name, folder, "column", key)
    return list(part[name])


def _labels(columns: list[list[Any]], folder: Path) -> tuple[tuple[str, ...], list[NDArray[np.int64]]]:
    """Names of the classes, none where labels are numbers, and the labels of each part."""
    if all(isinstance(label, int) for column in columns for label in column):
        return (), [np.array(column, np.int64) for column in columns]
    names = [[str(label) for label in column] for column in columns]
    known = sorted(set(names[0]))
    return tuple(known), [number_classes(column, known, origin=str(folder)) for column in names]


def _array(values: list[Any], channels: int, folder: Path) -> NDArray[Any]:
    """Examples of one column as an array."""
    images = values and hasattr(values[0], "convert")
    plain = (eight_bits(value, channels, origin=f"{folder}: an example") for value in values) if images else values
    arrays = [np.asarray(value) for value in plain]
    shapes = sorted({array.shape for array in arrays})
    if len(shapes) > 1:
        raise DataError(f"{folder}: examples have different shapes, for example {shapes[0]} and {shapes[1]}. Save them in one shape.")
    stacked = np.stack(arrays)
    if not images:
        return stacked
    return np.ascontiguousarray(stacked[:, None] if channels == 1 else stacked.transpose(0, 3, 1, 2))
