"""Tokens as numbers: the same files and vocabulary as one-hot words, one number for each position."""

from pathlib import Path

import pytest
import torch

from tsn_toolkit.data import load_data
from tsn_toolkit.errors import DataError
from tsn_toolkit.recipe.schema import DataSection

TRAIN = "0 Who was the first ?\n1 The the end .\n0 Who is who ?\n1 caf\xe9 end\n"
TEST = "1 the unseen end of the end .\n0 who ?\n"


def load(folder: Path, source: str = "token_numbers", **options: object):
    return load_data(DataSection.model_validate({"source": source, "path": str(folder), "options": options}))


@pytest.fixture
def text(tmp_path: Path) -> Path:
    (tmp_path / "TREC.train.all").write_bytes(TRAIN.encode("latin-1"))
    (tmp_path / "TREC.test.all").write_bytes(TEST.encode("latin-1"))
    return tmp_path


def test_numbers_by_hand(text: Path) -> None:
    """Counts of the training part: the 3, who 3, ? 2, end 2, then `.`: numbers 2 to 6; 1 is another word, 0 is behind the end."""
    train, test = load(text, vocabulary=6, length=5)
    assert test.x.tolist() == [[2, 1, 5, 1, 2], [3, 4, 0, 0, 0]]
    assert (train.x.shape, train.x.dtype, test.y.tolist()) == ((4, 5), torch.float32, [1, 0])
    assert int(train.x.max()) == 6


def test_they_are_the_columns_of_one_hot_words(text: Path) -> None:
    options = {"vocabulary": 5, "length": 7}
    for one_hot, numbers in zip(load(text, "labelled_text", **options), load(text, **options), strict=True):
        present = one_hot.x.amax(1) > 0
        assert torch.equal(numbers.x > 0, present)
        assert torch.equal(numbers.x[present].long() - 1, one_hot.x.argmax(1)[present])
        assert torch.equal(numbers.y, one_hot.y)


def test_a_missing_folder_is_refused() -> None:
    with pytest.raises(DataError, match="token_numbers"):
        load_data(DataSection.model_validate({"source": "token_numbers"}))
