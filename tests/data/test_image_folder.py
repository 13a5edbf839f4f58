"""Folders of images: order, channels, sizes; what is damaged or missing is named."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tsn_toolkit.data import load_data
from tsn_toolkit.errors import DataError
from tsn_toolkit.recipe.schema import DataSection

Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed: pip install 'tsn-toolkit[images]'")


def section(path: Path | None, **options: object) -> DataSection:
    data = {key: options.pop(key) for key in ("test_split",) if key in options}
    return DataSection.model_validate({"source": "image-folder", "path": None if path is None else str(path), "options": options, **data})


def picture(seed: int, shape: tuple[int, ...] = (4, 5, 3)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """train: two cats, two dogs; test: one of each."""
    for number, name in enumerate(("train/cat/1.png", "train/cat/2.PNG", "train/dog/1.bmp", "train/dog/0.png", "test/cat/x.png", "test/dog/x.png")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(number)).save(tmp_path / name)
    (tmp_path / "train" / "cat" / ".hidden.png").write_bytes(b"")
    (tmp_path / "train" / "cat" / "notes.txt").write_text("no image")
    return tmp_path


def test_images_in_the_order_of_class_and_name(folder: Path) -> None:
    train, test = load_data(section(folder))
    assert (train.x.shape, train.x.dtype, train.y.tolist()) == ((4, 3, 4, 5), torch.uint8, [0, 0, 1, 1])
    for row, number in enumerate((0, 1, 3, 2)):
        assert np.array_equal(train.x[row].permute(1, 2, 0).numpy(), picture(number))
    assert test.y.tolist() == [0, 1]


def test_grey_and_one_size(folder: Path) -> None:
    grey, _ = load_data(section(folder, channels=1, size=[8, 6]))
    assert grey.x.shape == (4, 1, 8, 6)
    exact, _ = load_data(section(folder, channels=1))
    weights = np.array([0.299, 0.587, 0.114])
    assert np.abs(exact.x[0, 0].numpy() - picture(0) @ weights).max() <= 1
    Image.fromarray(np.full((9, 9), 77, np.uint8)).save(folder / "train" / "cat" / "1.png")
    flat, _ = load_data(section(folder, size=[4, 4]))
    assert flat.x[0].unique().tolist() == [77], "grey becomes colour"


def test_a_test_part_out_of_one_folder(folder: Path) -> None:
    for number in range(4):
        for name in ("cat", "dog"):
            Image.fromarray(picture(10 + number)).save(folder / "train" / name / f"more-{number}.png")
    train, test = load_data(section(folder / "train", train=".", test=None, test_split={"fraction": 0.5}))
    assert (train.y.tolist(), test.y.tolist()) == ([0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 1])
    with pytest.raises(DataError, match="has no test part. Set `test_split`"):
        load_data(section(folder / "train", train=".", test=None))


def test_damaged_and_unequal_images(folder: Path) -> None:
    blob = (folder / "train" / "dog" / "0.png").read_bytes()
    for damaged in (b"", b"no image at all", blob[:40], blob[:-40]):
        (folder / "train" / "dog" / "0.png").write_bytes(damaged)
        with pytest.raises(DataError, match=r"dog/0\.png is no readable image"):
            load_data(section(folder))
    Image.fromarray(picture(0, (4, 6, 3))).save(folder / "train" / "dog" / "0.png")
    with pytest.raises(DataError, match=r"dog/0\.png is 4 x 6 pixels, .*cat/1\.png is 4 x 5; all must be alike. Set `data.options.size`"):
        load_data(section(folder))


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_more_than_eight_bits_are_not_cut_off(folder: Path, dtype: type) -> None:
    (folder / "train" / "dog" / "0.png").unlink()
    Image.fromarray(np.full((4, 5), 1000, dtype)).save(folder / "train" / "dog" / "0.tiff")
    with pytest.raises(DataError, match=r"dog/0\.tiff has grey values of more than 8 bits \(Pillow's mode [IF]"):
        load_data(section(folder))


def test_parts_of_different_sizes(folder: Path) -> None:
    for name in ("cat", "dog"):
        Image.fromarray(picture(0, (6, 6, 3))).save(folder / "test" / name / "x.png")
    with pytest.raises(DataError, match=r"images of train are \(4, 5\), of test \(6, 6\)"):
        load_data(section(folder))


def test_classes_that_are_empty_unknown_or_absent(folder: Path) -> None:
    (folder / "train" / "empty").mkdir()
    with pytest.raises(DataError, match="class folder .*train/empty holds no image"):
        load_data(section(folder))
    (folder / "train" / "empty").rmdir()
    (folder / "test" / "dog").rename(folder / "test" / "dogs")
    with pytest.raises(DataError, match="class 'dogs' does not occur in training, which has cat, dog"):
        load_data(section(folder))
    (folder / "test" / "dogs" / "x.png").unlink()
    (folder / "test" / "dogs").rmdir()
    with pytest.raises(DataError, match=r"test has no folder for class 'dog' of training"):
        load_data(section(folder))


def test_missing_folders_and_a_missing_pillow(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="learn does not exist; it holds a folder of images per class"):
        load_data(section(folder, train="learn"))
    with pytest.raises(DataError, match="holds no folder; each class needs one"):
        load_data(section(folder / "train" / "cat", train=".", test=None))
    with pytest.raises(DataError, match="image-folder needs `data.path`"):
        load_data(section(None))
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(DataError, match=r"needs Pillow, which is not installed. Install it: pip install 'tsn-toolkit\[images\]'"):
        load_data(section(folder))
