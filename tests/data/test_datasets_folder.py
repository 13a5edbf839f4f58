"""Folders that `save_to_disk` wrote; and the message where `datasets` is not installed."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tsn_toolkit.data import load_data
from tsn_toolkit.errors import DataError
from tsn_toolkit.recipe.schema import DataSection


def section(path: Path, **options: object) -> DataSection:
    data = {key: options.pop(key) for key in ("test_split",) if key in options}
    return DataSection.model_validate({"source": "datasets-folder", "path": str(path), "options": options, **data})


def test_what_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"needs `datasets`, which is not installed. Install it: pip install 'tsn-toolkit\[datasets\]'"):
        load_data(section(tmp_path))


@pytest.fixture
def datasets():
    return pytest.importorskip("datasets", reason="datasets is not installed: pip install 'tsn-toolkit[datasets]'")


def numbers(datasets, count: int, names: tuple = (0, 1)):
    rows = {"x": [[float(row), 2.0] for row in range(count)], "label": [names[row % 2] for row in range(count)]}
    return datasets.Dataset.from_dict(rows)


def test_arrays_with_named_labels(tmp_path: Path, datasets) -> None:
    parts = {"train": numbers(datasets, 6, ("dog", "cat")), "validation": numbers(datasets, 4, ("dog", "cat"))}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "set")
    train, test = load_data(section(tmp_path / "set", x="x", test="validation"))
    assert train.x.dtype == torch.float32 and train.x.tolist() == [[float(row), 2.0] for row in range(6)]
    assert (train.y.tolist(), len(test), test.reading.class_names) == ([1, 0] * 3, 4, ("cat", "dog"))
    with pytest.raises(DataError, match="has no part 'test'; it has train, validation. Correct `data.options.test`"):
        load_data(section(tmp_path / "set", x="x"))
    with pytest.raises(DataError, match="has no column 'image'; it has x, label. Correct `data.options.x`"):
        load_data(section(tmp_path / "set", test="validation"))


def test_one_part_alone(tmp_path: Path, datasets) -> None:
    numbers(datasets, 8).save_to_disk(tmp_path / "set")
    train, test = load_data(section(tmp_path / "set", x="x", test=None, test_split={"fraction": 0.25}))
    assert (len(train), len(test)) == (6, 2)
    with pytest.raises(DataError, match="holds one part alone. Set `data.options.test` to null"):
        load_data(section(tmp_path / "set", x="x"))


def test_images(tmp_path: Path, datasets) -> None:
    image = pytest.importorskip("PIL.Image")
    pixels = np.random.default_rng(0).integers(0, 256, (4, 3, 5, 3), np.uint8)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    part = datasets.Dataset.from_dict({"image": [image.fromarray(one) for one in pixels], "label": [0, 1, 0, 1]}, features=features)
    datasets.DatasetDict({"train": part, "test": part.select([2, 3, 0])}).save_to_disk(tmp_path / "set")
    train, test = load_data(section(tmp_path / "set"))
    assert train.reading.class_names == test.reading.class_names == ("a", "b")
    assert torch.equal(train.x, torch.from_numpy(pixels).permute(0, 3, 1, 2))
    assert load_data(section(tmp_path / "set", channels=1))[0].x.shape == (4, 1, 3, 5)


def test_refused(tmp_path: Path, datasets) -> None:
    ragged = datasets.Dataset.from_dict({"x": [[1.0], [1.0, 2.0], [1.0], [2.0]], "label": [0, 1, 0, 1]})
    datasets.DatasetDict({"train": ragged, "test": ragged}).save_to_disk(tmp_path / "ragged")
    with pytest.raises(DataError, match=r"examples have different shapes, for example \(1,\) and \(2,\)"):
        load_data(section(tmp_path / "ragged", x="x"))
    parts = {"train": numbers(datasets, 6, ("dog", "cat")), "test": numbers(datasets, 4, ("dog", "cow"))}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "set")
    with pytest.raises(DataError, match="class 'cow' does not occur in training, which has cat, dog"):
        load_data(section(tmp_path / "set", x="x"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="is no data set that `save_to_disk` wrote"):
        load_data(section(tmp_path / "empty"))
