"""Each source reads its format and refuses a truncated or mislabelled file by name, with what was expected and what was there."""

import gzip
import re
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from tsn_toolkit.data import data_hash, load_data
from tsn_toolkit.data.examples import make_split
from tsn_toolkit.data.sources import idx
from tsn_toolkit.errors import DataError
from tsn_toolkit.recipe.schema import DataSection

GENERATOR = np.random.default_rng(0)


def section(source: str, path: Path | None = None, **more: object) -> DataSection:
    return DataSection.model_validate({"source": source, "path": None if path is None else str(path), **more})


# -------------------------------------------------------------------------------------------------------------------- digits


def test_digits_counts_and_pixels() -> None:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    train, test = load_data(section("digits"))
    assert (len(train), len(test)) == (1442, 355)
    assert (train.x.dtype, train.x.shape[1:], int(train.x.max())) == (torch.uint8, (1, 8, 8), 240)
    for label in range(10):
        members = [index for index, value in enumerate(bunch.target) if value == label]
        expected = [index for place, index in enumerate(members) if place % 5 == 4]
        assert torch.equal(test.x[test.y == label][:, 0].double() / 15, torch.from_numpy(bunch.images[expected]))
        assert int((train.y == label).sum()) == len(members) - len(expected)


# ----------------------------------------------------------------------------------------------------------------------- idx


def idx_bytes(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.fixture
def mnist(tmp_path: Path) -> Path:
    for part, count in (("train", 12), ("t10k", 6)):
        images = GENERATOR.integers(0, 256, (count, 5, 4), np.uint8)
        (tmp_path / f"{part}-images-idx3-ubyte").write_bytes(idx_bytes(images))
        (tmp_path / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx_bytes(np.arange(count, dtype=np.uint8) % 3)))
    return tmp_path


def test_idx_raw_and_gzip(mnist: Path) -> None:
    train, test = load_data(section("idx", mnist))
    raw = np.fromfile(mnist / "train-images-idx3-ubyte", np.uint8)[16:].reshape(12, 1, 5, 4)
    assert np.array_equal(train.x.numpy(), raw)
    assert train.y.tolist() == [0, 1, 2] * 4
    assert len(test) == 6


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("train-images-idx3-ubyte", lambda blob: blob[:-1], r"train-images-idx3-ubyte holds 239 bytes of data, its header says 240 \(12, 5, 4\)"),
        ("train-images-idx3-ubyte", lambda blob: blob + b"x", "holds more than 240 bytes"),
        ("train-images-idx3-ubyte", lambda blob: blob[:9], "truncated inside its header: 9 bytes, expected 16"),
        ("train-images-idx3-ubyte", lambda blob: b"", r"starts with the bytes \(none\), expected 00 00 08 03"),
        ("train-images-idx3-ubyte", lambda blob: blob[:2] + b"\x0d" + blob[3:], "starts with the bytes 00 00 0d 03, expected 00 00 08 03"),
        ("train-images-idx3-ubyte", lambda blob: blob[:4] + b"\xff" * 8 + blob[12:], "its header says"),
        ("t10k-labels-idx1-ubyte.gz", lambda blob: blob[:-9], "t10k-labels-idx1-ubyte.gz is a damaged or truncated gzip"),
        ("t10k-labels-idx1-ubyte.gz", lambda blob: b"plain", "t10k-labels-idx1-ubyte.gz is a damaged or truncated gzip"),
        ("t10k-labels-idx1-ubyte.gz", lambda _: gzip.compress(idx_bytes(np.zeros(5, np.uint8))), "holds 5 labels, .* holds 6 images"),
        ("t10k-labels-idx1-ubyte.gz", lambda _: gzip.compress(bytes([0, 0, 8, 1]) + b"\xff" * 4), "its header says 4294967295"),
        (
            "t10k-labels-idx1-ubyte.gz",
            lambda _: gzip.compress(idx_bytes(np.array([0, 1, 9, 0, 1, 9], np.uint8))),
            r"only in train: \[2\], only in test: \[9\]",
        ),
    ],
)
def test_idx_refuses(mnist: Path, file: str, change, message: str) -> None:
    (mnist / file).write_bytes(change((mnist / file).read_bytes()))
    with pytest.raises(DataError, match=message):
        load_data(section("idx", mnist))


def test_idx_missing_file_and_folder(mnist: Path) -> None:
    (mnist / "train-images-idx3-ubyte").unlink()
    with pytest.raises(DataError, match="train-images-idx3-ubyte .*does not exist; the folder holds t10k-images"):
        load_data(section("idx", mnist))
    with pytest.raises(DataError, match=r"gone does not exist; source idx expects train-images.*TSN_DATA"):
        load_data(section("idx", mnist / "gone"))
    with pytest.raises(DataError, match="idx needs `data.path`"):
        load_data(section("idx"))


def test_idx_dimensions(mnist: Path) -> None:
    with pytest.raises(DataError, match="00 00 08 03, expected 00 00 08 01"):
        idx.read_idx(mnist / "train-images-idx3-ubyte", dimensions=1)


# --------------------------------------------------------------------------------------------------------------------- cifar


def cifar100_rows(count: int) -> np.ndarray:
    rows = GENERATOR.integers(0, 256, (count, 3074), np.uint8)
    rows[:, 1] = np.arange(count) % 4 * 30
    rows[:, 0] = rows[:, 1] // 50
    return rows


@pytest.fixture
def cifar(tmp_path: Path) -> Path:
    cifar100_rows(12).tofile(tmp_path / "train.bin")
    cifar100_rows(8).tofile(tmp_path / "test.bin")
    return tmp_path


SUBSET = {"official_size": False}


def test_cifar100_planes_and_labels(cifar: Path) -> None:
    blob = (cifar / "train.bin").read_bytes()
    train, test = load_data(section("cifar-binary", cifar, options=SUBSET))
    assert train.x.shape == (12, 3, 32, 32)
    assert int(train.x[5, 2, 7, 30]) == blob[5 * 3074 + 2 + 2 * 1024 + 7 * 32 + 30]
    assert train.y.tolist() == [0, 30, 60, 90] * 3
    coarse, _ = load_data(section("cifar-binary", cifar, options={**SUBSET, "labels": "coarse"}))
    assert coarse.y.tolist() == [0, 0, 1, 1] * 3
    assert len(test) == 8


def test_cifar10_joins_its_batches(tmp_path: Path) -> None:
    for position, name in enumerate([*[f"data_batch_{part}" for part in range(1, 6)], "test_batch"]):
        rows = np.full((2, 3073), position, np.uint8)
        rows[:, 0] = [3, 7]
        rows.tofile(tmp_path / f"{name}.bin")
    train, test = load_data(section("cifar_binary", tmp_path, options=SUBSET))
    assert train.x[:, 0, 0, 0].tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert train.y.tolist() == [3, 7] * 5
    assert test.x.unique().tolist() == [5]
    with pytest.raises(DataError, match="holds CIFAR-10, which has no 'coarse' labels"):
        load_data(section("cifar-binary", tmp_path, options={**SUBSET, "labels": "coarse"}))
    (tmp_path / "data_batch_4.bin").unlink()
    with pytest.raises(DataError, match=r"data_batch_4\.bin does not exist"):
        load_data(section("cifar-binary", tmp_path, options=SUBSET))


def test_cifar_refuses_sizes_and_labels(cifar: Path) -> None:
    with pytest.raises(DataError, match=r"train\.bin has 36888 bytes, expected 153700000 \(50000 images of 3074 bytes\)"):
        load_data(section("cifar-binary", cifar))
    good = np.fromfile(cifar / "train.bin", np.uint8).reshape(-1, 3074)
    (cifar / "train.bin").write_bytes(good.tobytes()[:-10])
    with pytest.raises(DataError, match=r"train\.bin has 36878 bytes, expected a multiple of 3074, such as 33814"):
        load_data(section("cifar-binary", cifar, options=SUBSET))
    wrong = good.copy()
    wrong[3, 1] = 100
    wrong.tofile(cifar / "train.bin")
    with pytest.raises(DataError, match=r"train\.bin: image 3 has label 100 \(label byte 1\), expected 0 to 99"):
        load_data(section("cifar-binary", cifar, options=SUBSET))
    wrong = good.copy()
    wrong[3, 0] = 19
    wrong.tofile(cifar / "train.bin")
    with pytest.raises(DataError, match=r"fine label 90 appears under the coarse labels \[1, 19\]"):
        load_data(section("cifar-binary", cifar, options=SUBSET))
    (cifar / "train.bin").write_bytes(b"")
    with pytest.raises(DataError, match=r"train\.bin has 0 bytes"):
        load_data(section("cifar-binary", cifar, options=SUBSET))


def test_cifar_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds nothing; source cifar-binary expects train\.bin and test\.bin"):
        load_data(section("cifar-binary", tmp_path))
    with pytest.raises(DataError, match=r"no_folder does not exist.*train\.bin and test\.bin.*TSN_DATA"):
        load_data(section("cifar-binary", tmp_path / "no_folder"))


# ----------------------------------------------------------------------------------------------------------------------- npz


def arrays() -> dict[str, np.ndarray]:
    return {"x": GENERATOR.normal(size=(9, 2, 4)).astype(np.float16), "y": np.arange(9) % 3, "is_test": np.arange(9) >= 6}


def test_npz(tmp_path: Path) -> None:
    given = arrays()
    np.savez_compressed(tmp_path / "a.npz", **given)
    train, test = load_data(section("npz", tmp_path / "a.npz"))
    assert train.x.dtype == torch.float32
    assert np.array_equal(train.x.numpy(), given["x"][:6].astype(np.float32))
    assert test.y.tolist() == [0, 1, 2]
    np.savez(tmp_path / "b.npz", data=given["x"], labels=given["y"], part=given["is_test"].astype(np.int8))
    other, _ = load_data(section("npz", tmp_path / "b.npz", options={"x": "data", "y": "labels", "is_test": "part"}))
    assert data_hash(other) == data_hash(train)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": None, "xs": np.zeros((9, 2))}, r"has no array 'x' \(did you mean 'xs'\?\); it holds y, is_test, xs"),
        ({"x": np.zeros((8, 2))}, "array 'x' has 8 examples for 9 labels"),
        ({"x": np.array([object()] * 9)}, "no readable .npz"),
        ({"x": np.array(1.0)}, "'x' is a single value"),
        ({"x": np.full((9, 2), np.nan)}, "example 0 holds a value that is not finite"),
        ({"y": np.arange(9) % 3 - 1}, "label -1 at position 0"),
        ({"y": np.arange(9) / 2}, "labels must be integers.*float64"),
        ({"y": np.array([0, 0, 0, 1, 1, 7, 0, 1, 7])}, "class 7 has 1 training example"),
        ({"is_test": np.arange(9)}, "must be bool or 0/1"),
        ({"is_test": np.zeros(9, bool)}, "0 of 9 examples are test"),
        ({"is_test": np.zeros(9, [("part", np.int8)])}, "must be bool or 0/1"),
        ({"x": np.zeros((9, 2, 0))}, r"examples of shape \(2, 0\) hold no value"),
        ({"y": np.arange(9).astype(np.uint64) % 3 + np.uint64(2**63)}, f"label {2**63 + 2} at position 2 has more than 63 bits"),
    ],
)
def test_npz_refuses(tmp_path: Path, change: dict, message: str) -> None:
    np.savez(tmp_path / "bad.npz", **{key: value for key, value in {**arrays(), **change}.items() if value is not None})
    with pytest.raises(DataError, match=message) as caught:
        load_data(section("npz", tmp_path / "bad.npz"))
    assert "bad.npz" in str(caught.value)


@pytest.mark.parametrize("cut", [0, 3, 200, -30])
def test_npz_truncated_or_missing(tmp_path: Path, cut: int) -> None:
    np.savez(tmp_path / "a.npz", **arrays())
    (tmp_path / "a.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:cut])
    with pytest.raises(DataError, match=r"a\.npz is no readable"):
        load_data(section("npz", tmp_path / "a.npz"))
    with pytest.raises(DataError, match=r"gone\.npz does not exist.*TSN_DATA"):
        load_data(section("npz", tmp_path / "gone.npz"))


def test_npz_of_another_kind(tmp_path: Path) -> None:
    np.save(tmp_path / "alone.npy", np.zeros((9, 2)))
    with pytest.raises(DataError, match=r"alone\.npy is a single array; source npz expects an \.npz archive with x, y, is_test"):
        load_data(section("npz", tmp_path / "alone.npy"))
    with zipfile.ZipFile(tmp_path / "files.npz", "w") as archive:
        archive.writestr("x", b"no array")
    with pytest.raises(DataError, match=r"files\.npz: 'x' is no array but a file of another kind"):
        load_data(section("npz", tmp_path / "files.npz"))
    np.savez(tmp_path / "locked.npz", **arrays())
    locked = bytearray((tmp_path / "locked.npz").read_bytes())
    for header, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # flag bit 0 of every member: it is encrypted
        for found in re.finditer(re.escape(header), bytes(locked)):
            locked[found.start() + flags] |= 1
    (tmp_path / "locked.npz").write_bytes(locked)
    with pytest.raises(DataError, match=r"locked\.npz is no readable .npz archive .*encrypted"):
        load_data(section("npz", tmp_path / "locked.npz"))


# ------------------------------------------------------------------------------------------------------------------- factory


FACTORY = """
import numpy as np
import torch

def good(n):
    return (torch.zeros(n, 3), [0, 1] * (n // 2)), (np.zeros((2, 3)), np.array([0, 1]))

def wrong():
    return 1

def unlike():
    return (np.zeros((4, 3)), [0, 1] * 2), (np.zeros((2, 4)), [0, 1])
"""


def test_factory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_data.py").write_text(FACTORY)
    monkeypatch.setenv("HERE", str(tmp_path))
    train, test = load_data(section("factory", options={"factory": "${HERE}/my_data.py:good(6)"}))
    assert (train.y.tolist(), test.x.dtype) == ([0, 1] * 3, torch.float32)
    with pytest.raises(DataError, match=r"my_data.py:wrong' returned a int; it must return"):
        load_data(section("factory", options={"factory": "${HERE}/my_data.py:wrong"}))
    with pytest.raises(DataError, match=r"float32 \(3,\), test examples torch.float32 \(4,\)"):
        load_data(section("factory", options={"factory": "${HERE}/my_data.py:unlike"}))
    with pytest.raises(DataError, match="no 'god'"):
        load_data(section("factory", options={"factory": "${HERE}/my_data.py:god"}))


def test_make_split_copies_read_only_arrays_and_refuses_overflow() -> None:
    frozen = np.zeros((2, 2), np.uint8)
    frozen.flags.writeable = False
    assert make_split(frozen, [0, 1], origin="o").x.sum() == 0
    with pytest.raises(DataError, match="o: example 1 holds a value that is not finite in float32"):
        make_split(np.array([[1.0], [1e300]]), [0, 1], origin="o")
    with pytest.raises(DataError, match=r"uint8 or float of shape \(n, ...\), got int64"):
        make_split(np.zeros((2, 2), np.int64), [0, 1], origin="o")


# -------------------------------------------------------------------------------------------------------------------- limits


def test_limits_keep_the_first_of_each_class() -> None:
    every, _ = load_data(section("digits"))
    train, test = load_data(section("digits", train_limit=25, test_limit=10))
    counts = torch.bincount(train.y)
    assert (int(counts.sum()), int(counts.min()), int(counts.max()), len(test)) == (25, 2, 3, 10)
    for label in range(10):
        assert torch.equal(train.x[train.y == label], every.x[every.y == label][: counts[label]])


def test_a_limit_leaves_every_class_a_test_example() -> None:
    with pytest.raises(DataError, match="data source digits has 10 classes, `test_limit` is 9: some would have no test example"):
        load_data(section("digits", test_limit=9))


def test_both_parts_have_one_shape(tmp_path: Path) -> None:
    labels = bytes([0, 0, 8, 1, 0, 0, 0, 4, 0, 1, 0, 1])
    for part, size in (("train", 2), ("t10k", 3)):
        (tmp_path / f"{part}-images-idx3-ubyte").write_bytes(bytes([0, 0, 8, 3, 0, 0, 0, 4, 0, 0, 0, size, 0, 0, 0, size]) + bytes(4 * size**2))
        (tmp_path / f"{part}-labels-idx1-ubyte").write_bytes(labels)
    with pytest.raises(DataError, match=r"examples of train have shape \(1, 2, 2\), of test \(1, 3, 3\).*set `data.input_shape`"):
        load_data(section("idx", tmp_path))
    assert load_data(section("idx", tmp_path, input_shape=(1, 2, 2)))[1].x.shape == (4, 1, 2, 2)


def test_channels_must_fit_the_mean() -> None:
    with pytest.raises(DataError, match="`data.mean` has 3 values, the examples of source digits have 1 channels"):
        load_data(section("digits", mean=[0.5] * 3, std=[0.5] * 3))


# ----------------------------------------------------------------------------------------------------------------- real data


@pytest.mark.data
def test_real_cifar100(tsn_data: Path) -> None:
    if not (tsn_data / "cifar-100-binary" / "train.bin").is_file():
        pytest.skip("cifar-100-binary/train.bin is not in TSN_DATA")
    train, test = load_data(section("cifar-binary", tsn_data / "cifar-100-binary"))
    assert torch.bincount(train.y).tolist() == [500] * 100
    assert torch.bincount(test.y).tolist() == [100] * 100
    means = train.x[::10].double().mean(dim=(0, 2, 3)) / 255
    assert torch.allclose(means, torch.tensor([0.507, 0.487, 0.441], dtype=torch.float64), atol=0.005)


@pytest.mark.data
@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_real_mnist(tsn_data: Path, name: str) -> None:
    if not (tsn_data / name).is_dir():
        pytest.skip(f"{name} is not in TSN_DATA")
    train, test = load_data(section("idx", tsn_data / name))
    assert (train.x.shape, test.x.shape) == ((60000, 1, 28, 28), (10000, 1, 28, 28))
    assert sorted(torch.bincount(test.y).tolist()) == ([892, 958, 974, 980, 982, 1009, 1010, 1028, 1032, 1135] if name == "mnist" else [1000] * 10)


@pytest.mark.data
def test_real_har(tsn_data: Path) -> None:
    if not (tsn_data / "har" / "har_f16.npz").is_file():
        pytest.skip("har/har_f16.npz is not in TSN_DATA")
    train, test = load_data(section("npz", tsn_data / "har" / "har_f16.npz"))
    assert len(train) + len(test) == 10299
    assert (train.x.shape[1:], train.x.dtype) == ((9, 128), torch.float32)
    assert sorted(train.y.unique().tolist()) == list(range(6))
