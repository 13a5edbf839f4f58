"""Tables: numbers, texts, named labels; what a reader of a wrong table is told."""

import zlib
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from tsn_toolkit.data import load_data
from tsn_toolkit.errors import DataError
from tsn_toolkit.recipe.schema import DataSection

TRAIN = 'width,kind,height\n1.5,cat,2\n-3,dog,4e1\n0,cat,"7"\n2,dog,1\n'
TEST = "width,kind,height\n9,dog,8\n7,cat,6\n"
TEXTS = 'label,text\n0,"The cat, the cat!"\n1,a dog\n0,the end\n1,dogs\n'
TEXTS_TEST = "label,text\n1,the unseen dog\n0,cat\n"


def section(path: Path | None, **more: object) -> DataSection:
    data = {key: more.pop(key) for key in ("test_split",) if key in more}
    return DataSection.model_validate({"source": "csv", "path": None if path is None else str(path), "options": more, **data})


@pytest.fixture
def table(tmp_path: Path) -> Path:
    (tmp_path / "train.csv").write_text(TRAIN, encoding="utf-8")
    (tmp_path / "test.csv").write_text(TEST, encoding="utf-8")
    return tmp_path


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    (tmp_path / "train.csv").write_text(TEXTS, encoding="utf-8")
    (tmp_path / "test.csv").write_text(TEXTS_TEST, encoding="utf-8")
    return tmp_path


def test_numbers_and_named_labels(table: Path) -> None:
    train, test = load_data(section(table, label="kind"))
    assert train.x.dtype == torch.float32
    assert train.x.tolist() == [[1.5, 2.0], [-3.0, 40.0], [0.0, 7.0], [2.0, 1.0]]
    assert (train.y.tolist(), test.y.tolist()) == ([0, 1, 0, 1], [1, 0])
    chosen, _ = load_data(section(table, label="kind", features=["height", "width"]))
    assert torch.equal(chosen.x, train.x.flip(1))


def test_whole_numbers_are_labels_themselves(table: Path) -> None:
    for name in ("train.csv", "test.csv"):
        text = (table / name).read_text(encoding="utf-8").replace("cat", "12").replace("dog", "7").replace(",", ";")
        (table / name).write_text(text, encoding="utf-8")
    assert load_data(section(table, label="kind", delimiter=";"))[0].y.tolist() == [12, 7, 12, 7]


def test_words_in_columns_of_the_training_vocabulary(texts: Path) -> None:
    """Counts of training: the 3, cat 2, then one each: `!`, `,`, `a`, ... by the alphabet."""
    train, test = load_data(section(texts, text="text", vocabulary=5, length=4))
    assert (train.x.shape, train.x.dtype) == ((4, 5, 4), torch.uint8)
    words = ["(others)", "the", "cat", "!", ","]
    expected = {0: ["the", "cat", ",", "the"], 2: ["the", "(others)"]}
    for row, tokens in expected.items():
        assert [words[column] for column in train.x[row].float().argmax(0)[: len(tokens)]] == tokens
        assert int((train.x[row] == 255).sum()) == len(tokens)
    assert test.x[0].float().argmax(0).tolist()[:3] == [1, 0, 0], "words of the test part alone have no column"


def test_hashed_words_need_no_training_part(texts: Path) -> None:
    train, _ = load_data(section(texts, text="text", tokens="hash", vocabulary=64, length=4))
    assert train.x[1].float().argmax(0).tolist()[:2] == [zlib.crc32(word) % 64 for word in (b"a", b"dog")]
    (texts / "test.csv").unlink()
    (texts / "train.csv").write_text(TEXTS + TEXTS.split("\n", 1)[1], encoding="utf-8")
    options = {"text": "text", "test": None, "test_split": {"fraction": 0.5}}
    held = load_data(section(texts, **options, tokens="hash"))
    assert [len(part) for part in held] == [4, 4]
    with pytest.raises(DataError, match="a vocabulary must not see it. Set `data.options.tokens` to hash"):
        load_data(section(texts, **options))


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("train.csv", "4e1", "tall", r"train.csv, line 3: column 'height' holds 'tall', which is no number"),
        ("train.csv", "4e1", "nan", "train.csv: example 1 holds a value that is not finite"),
        ("train.csv", "-3,", "", "train.csv, line 3: 2 cells, the header has 3"),
        ("train.csv", '"7"', '"7"x', "train.csv, line 4: "),
        ("train.csv", "height\n", "width\n", "train.csv has 2 columns 'width'"),
        ("train.csv", "kind", "sort", "train.csv has no column 'kind'; it has width, sort, height. Correct `data.options.label`"),
        ("test.csv", "height", "heigth", r"test.csv has no column 'height' \(did you mean 'heigth'\?\)"),
        ("test.csv", "cat", "cow", "test.csv: class 'cow' does not occur in training, which has cat, dog"),
        ("test.csv", "cat", "", "test.csv, line 3: the label is empty"),
        ("test.csv", "cat", "dog", "only in train: \\[0\\]"),
        ("train.csv", TRAIN.split("\n", 1)[1], "", "train.csv holds no row below its header"),
        ("train.csv", "cat", "\xff", "train.csv is not utf-8"),
    ],
)
def test_refused(table: Path, file: str, old: str, new: str, message: str) -> None:
    text = (table / file).read_text(encoding="utf-8")
    assert old in text
    (table / file).write_text(text.replace(old, new, 1), encoding="latin-1")
    with pytest.raises(DataError, match=message):
        load_data(section(table, label="kind"))


def test_a_byte_order_mark_is_no_part_of_the_first_column(table: Path) -> None:
    for name in ("train.csv", "test.csv"):
        text = "".join(",".join(line.split(",")[::-1]) + "\n" for line in (table / name).read_text(encoding="utf-8").split())
        (table / name).write_text(text, encoding="utf-8-sig")
    train, _ = load_data(section(table, label="kind", features=["height", "width"]))
    assert train.x[0].tolist() == [2.0, 1.5]


@pytest.mark.parametrize("options", [{"features": ["width", "kind"]}, {"text": "kind", "tokens": "hash"}])
def test_the_label_is_no_input(table: Path, options: dict) -> None:
    with pytest.raises(ValidationError, match="column 'kind' is the label and cannot be an input too"):
        load_data(section(table, label="kind", **options))


def test_labels_of_many_digits(table: Path) -> None:
    long, longer = 10**18 - 1, 10**18
    for name, text in (("train.csv", TRAIN), ("test.csv", TEST)):
        (table / name).write_text(text.replace("cat", str(long)).replace("dog", "7"), encoding="utf-8")
    assert load_data(section(table, label="kind"))[0].y.tolist() == [long, 7, long, 7]
    (table / "test.csv").write_text(TEST.replace("cat", str(longer)).replace("dog", "7"), encoding="utf-8")
    with pytest.raises(DataError, match=rf"test.csv, line 3: label '{longer}' has more than 18 digits"):
        load_data(section(table, label="kind"))


def test_the_training_file_is_no_test_file(table: Path) -> None:
    with pytest.raises(DataError, match="train and test hold the same 4 examples, and nothing would be measured"):
        load_data(section(table, label="kind", test="train.csv"))


def test_missing_files(table: Path) -> None:
    with pytest.raises(DataError, match="other.csv does not exist.*`data.options.train`"):
        load_data(section(table, train="other.csv"))
    with pytest.raises(DataError, match="csv needs `data.path`"):
        load_data(section(None))
    with pytest.raises(DataError, match="is not no-such-code .*Correct `data.options.encoding`"):
        load_data(section(table, encoding="no-such-code"))
