"""The text source reads TREC's and SST's format, builds its vocabulary from the training part alone, and refuses lines of another kind."""

from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tsn_toolkit.data import load_data
from tsn_toolkit.data.sources import labelled_text
from tsn_toolkit.errors import DataError
from tsn_toolkit.recipe.schema import DataSection

TRAIN = "0 Who was the first ?\n1 The the end .\n0 Who is who ?\n1 caf\xe9 end\n"
TEST = "1 the unseen end of the end .\n0 who ?\n"


def section(path: Path | None, **options: object) -> DataSection:
    return DataSection.model_validate({"source": "labelled_text", "path": None if path is None else str(path), "options": options})


@pytest.fixture
def text(tmp_path: Path) -> Path:
    (tmp_path / "TREC.train.all").write_bytes(TRAIN.encode("latin-1"))
    (tmp_path / "TREC.test.all").write_bytes(TEST.encode("latin-1"))
    return tmp_path


def test_one_hot_by_hand(text: Path) -> None:
    """Counts of the training part: the 3, who 3, ? 2, end 2, then ties of 1 by alphabet: the first of them is `.`."""
    train, test = load_data(section(text, vocabulary=6, length=5))
    words = ["(others)", "the", "who", "?", "end", "."]
    assert (train.x.shape, train.x.dtype, test.x.shape) == ((4, 6, 5), torch.uint8, (2, 6, 5))
    assert (train.y.tolist(), test.y.tolist()) == ([0, 1, 0, 1], [1, 0])
    expected = [["the", "(others)", "end", "(others)", "the"], ["who", "?"]]  # the sixth and seventh token are cut off
    for row, sentence in enumerate(expected):
        for position in range(5):
            column = test.x[row, :, position]
            assert column.sum() == (255 if position < len(sentence) else 0)
            assert position >= len(sentence) or column[words.index(sentence[position])] == 255


def test_a_word_of_the_test_part_has_no_column(text: Path) -> None:
    every = load_data(section(text, vocabulary=10, length=8))[1]
    assert every.x[0, 0].tolist() == [0, 255, 0, 255, 0, 0, 0, 0]  # `unseen` and `of`


def test_encodings(text: Path) -> None:
    with pytest.raises(DataError, match=r"TREC\.train\.all is not utf-8 .*latin-1"):
        load_data(section(text, vocabulary=6, encoding="utf-8"))
    (text / "TREC.train.all").write_bytes(TRAIN.encode("utf-8"))
    train, _ = load_data(section(text, vocabulary=10, encoding="utf-8"))
    assert int((train.x[3] > 0).sum()) == 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("x Who ?", r"TREC\.test\.all, line 3: 'x Who \?' is no label, space and tokens"),
        ("-1 Who ?", "line 3: '-1 Who"),
        ("² Who ?", "line 3: '²"),
        ("1", "line 3: '1' is no label"),
        ("1   ", "line 3: '1   ' is no label"),
        (" Who ?", "line 3: ' Who"),
    ],
)
def test_refuses_a_line(text: Path, line: str, message: str) -> None:
    (text / "TREC.test.all").write_bytes((TEST + line + "\n").encode("latin-1"))
    with pytest.raises(DataError, match=message):
        load_data(section(text, vocabulary=6))


def test_refuses_files_and_sizes(text: Path) -> None:
    with pytest.raises(DataError, match=r"has 9 different words, `data.options.vocabulary` asks for 19 .* Set it to 10 or less"):
        load_data(section(text, vocabulary=20))
    with pytest.raises(DataError, match="gone does not exist.*`data.options.train`"):
        load_data(section(text, train="gone"))
    with pytest.raises(DataError, match="labelled_text needs `data.path`"):
        load_data(section(None))
    (text / "TREC.test.all").write_text("\n\r\n")
    with pytest.raises(DataError, match=r"TREC\.test\.all holds no sentence"):
        load_data(section(text, vocabulary=6))


TOKENS = st.lists(st.sampled_from([*"abcdefg", "\x85", "\x0b"]), min_size=1, max_size=6)


@settings(max_examples=40, deadline=None)
@given(
    sentences=st.lists(st.tuples(st.integers(0, 3), TOKENS), min_size=1, max_size=8),
    length=st.integers(1, 7),
    ending=st.sampled_from(["\n", "\r\n"]),
)
def test_every_token_has_its_column(sentences: list, length: int, ending: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Against a slow count; characters that other line breakers stop at stay inside their line."""
    folder = tmp_path_factory.mktemp("text")
    for name in ("train", "test"):
        (folder / name).write_bytes("".join(f"{label} {' '.join(tokens)}{ending}" for label, tokens in sentences).encode("latin-1"))
    counts = Counter(token for _, tokens in sentences for token in tokens)
    ranked = sorted(counts, key=lambda token: (-counts[token], token))
    size = max(2, (len(ranked) + 1) // 2 + 1)
    options = labelled_text.Options(train="train", test="test", vocabulary=size, length=length)
    split, _ = labelled_text.load(folder, options)
    columns = {token: place + 1 for place, token in enumerate(ranked[: size - 1])}
    found = [[int(column.argmax()) for column in row.T if column.any()] for row in split.x.numpy()]
    assert found == [[columns.get(token, 0) for token in tokens[:length]] for _, tokens in sentences]


@pytest.mark.data
def test_real_trec(tsn_data: Path) -> None:
    if not (tsn_data / "text" / "TREC.train.all").is_file():
        pytest.skip("text/TREC.train.all is not in TSN_DATA")
    train, test = load_data(section(tsn_data / "text"))
    assert (train.x.shape, test.x.shape) == ((5452, 512, 24), (500, 512, 24))
    assert torch.bincount(train.y).tolist() == [1162, 1250, 86, 1223, 835, 896]
    assert torch.bincount(test.y).tolist() == [138, 94, 9, 65, 81, 113]
