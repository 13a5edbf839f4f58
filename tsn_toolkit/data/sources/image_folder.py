"""Images in folders: one folder per part, in it one folder per class with the class's images. Needs Pillow.

    train/cat/001.png   train/dog/a.jpg   test/cat/7.png ...

Classes are numbered in the order of the alphabet. Hidden files and files of other kinds are passed over.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from tsn_toolkit.contracts import Reading, Split
from tsn_toolkit.data.class_names import number_classes
from tsn_toolkit.data.examples import make_split, require_folder
from tsn_toolkit.errors import DataError

SUFFIXES = frozenset((".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"))
MODES = {1: "L", 3: "RGB"}
"""Channels -> Pillow's name for such images."""

Side = Annotated[int, Field(ge=1, le=8192)]


class Options(BaseModel):
    """Settings of the source."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    train: str = "train"
    """Folder of the training part; `.` is `data.path` itself."""
    test: str | None = "test"
    """Folder of the test part; null: there is none."""
    channels: Literal[1, 3] = 3
    """Grey or colour; images of the other kind are turned into it."""
    size: tuple[Side, Side] | None = Field(None, strict=False)
    """Height and width that every image is resized to; null: all images have one size."""


def load(path: Path | None, options: Options) -> tuple[Split, Split | None]:
    """Read train and test, x uint8 (n, channels, height, width), in the order of class and file name.

    Raises:
        DataError: Pillow is not installed; a folder is missing; a class has no image, or not in both parts; an image is damaged, has another
            size or more than 8 bits a value.
    """
    folder = require_folder(path, source="image-folder", files="folders of images, one per class, in a folder per part")
    parts = {part: _files(folder / part) for part in (options.train, options.test) if part is not None}
    known = list(parts[options.train])
    splits = [_load_part(folder / part, classes, known, options) for part, classes in parts.items()]
    if len(splits) > 1 and splits[0].x.shape[1:] != splits[1].x.shape[1:]:
        shapes = [tuple(split.x.shape[2:]) for split in splits]
        raise DataError(f"{folder}: images of train are {shapes[0]}, of test {shapes[1]}. Set `data.options.size` to one size.")
    return splits[0], splits[1] if len(splits) > 1 else None


def _files(folder: Path) -> dict[str, list[Path]]:
    """Class -> its image files, both sorted by name."""
    if not folder.is_dir():
        raise DataError(f"data folder {folder} does not exist; it holds a folder of images per class. Correct `data.path` or `data.options`.")
    places = sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not places:
        raise DataError(f"data folder {folder} holds no folder; each class needs one, with its images in it. Put them there or correct `data.path`.")
    found = {place.name: sorted(file for file in place.iterdir() if _is_image(file)) for place in places}
    for name, files in found.items():
        if not files:
            raise DataError(f"class folder {folder / name} holds no image ({', '.join(sorted(SUFFIXES))}). Put some there or remove the folder.")
    return found


def _is_image(file: Path) -> bool:
    return file.suffix.lower() in SUFFIXES and not file.name.startswith(".")


def _load_part(folder: Path, classes: dict[str, list[Path]], known: list[str], options: Options) -> Split:
    files = [(name, file) for name, paths in classes.items() for file in paths]
    labels = number_classes([name for name, _ in files], known, origin=str(folder))
    absent = sorted(set(known) - set(classes))
    if absent:
        raise DataError(f"data folder {folder} has no folder for class {absent[0]!r} of training. Add it.")
    images: NDArray[np.uint8] | None = None
    for position, (_, file) in enumerate(files):
        pixels = _read_image(file, options)
        if images is None:
            images = np.empty((len(files), *pixels.shape), np.uint8)
        if pixels.shape != images.shape[1:]:
            raise DataError(
                f"{file} is {pixels.shape[0]} x {pixels.shape[1]} pixels, {files[0][1]} is {images.shape[1]} x {images.shape[2]}; all must be alike. "
                "Set `data.options.size` to one size."
            )
        images[position] = pixels
    assert images is not None, "every class has a file"
    steps: tuple[str, ...] = (f"read as {'grey' if options.channels == 1 else 'red, green, blue'}",)
    if options.size is not None:
        steps += (f"resized to {options.size[0]} x {options.size[1]} (height x width) by Pillow's BILINEAR",)
    return make_split(np.ascontiguousarray(images.transpose(0, 3, 1, 2)), labels, origin=str(folder), reading=Reading(tuple(known), steps))


def _read_image(file: Path, options: Options) -> NDArray[np.uint8]:
    """One image, uint8 (height, width, channels)."""
    pillow = _pillow()
    try:
        with pillow.open(file) as image:
            plain = eight_bits(image, options.channels, origin=str(file))
    except (OSError, SyntaxError, ValueError, pillow.DecompressionBombError) as problem:
        raise DataError(f"{file} is no readable image ({problem}). Get it again or remove it.") from problem
    if options.size is not None:
        plain = plain.resize((options.size[1], options.size[0]), pillow.Resampling.BILINEAR)
    pixels = np.asarray(plain, np.uint8)
    return pixels if pixels.ndim == 3 else pixels[:, :, None]


def eight_bits(image: Any, channels: int, *, origin: str) -> Any:
    """A Pillow image in grey or colour.

    Raises:
        DataError: its grey values have more than 8 bits, which Pillow would cut off at 255.
    """
    if image.mode.partition(";")[0] in ("I", "F"):
        raise DataError(
            f"{origin} has grey values of more than 8 bits (Pillow's mode {image.mode}). Scale the images to 8 bits, or give their values as "
            "float32 through source npz."
        )
    return image.convert(MODES[channels])


def _pillow() -> Any:
    try:
        from PIL import Image
    except ModuleNotFoundError as problem:
        raise DataError("data source image-folder needs Pillow, which is not installed. Install it: pip install 'tsn-toolkit[images]'.") from problem
    return Image
