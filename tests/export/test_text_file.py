"""The code of a package's README makes the same columns of a text as the data source did."""

import json

import numpy as np
import pytest
import torch

from tsn_toolkit.contracts import Reading, Split, TaskData, TextForm
from tsn_toolkit.data.normalisation import normalise
from tsn_toolkit.data.sources import csv, labelled_text, token_numbers
from tsn_toolkit.delivery import package_options
from tsn_toolkit.export.text_file import TEXT_FILE, text_code, write_text_file

TEXT = "Who, über-all, is WHO? the (unseen) words and many more of them"
FORMS = {
    "vocabulary": (csv, {"text": "text"}),
    "hash": (csv, {"text": "text", "tokens": "hash"}),
    "sentences": (labelled_text, {"train": "train.txt", "test": "test.txt", "encoding": "utf-8"}),
    "numbers": (token_numbers, {"train": "train.txt", "test": "test.txt", "encoding": "utf-8"}),
}


def read(folder, kind):
    """Train and test of a source over the same sentences, the last of test being TEXT."""
    source, options = FORMS[kind]
    sentences = ["who is who ?", "is the , über end", "the ( words ) ?", "is it who , ?"]
    for part, rows in (("train", sentences), ("test", [sentences[1], TEXT])):
        (folder / f"{part}.txt").write_text("".join(f"{row % 2} {text}\n" for row, text in enumerate(rows)), encoding="utf-8")
        lines = (f'{row % 2},"{text}"' for row, text in enumerate(rows))
        (folder / f"{part}.csv").write_text("label,text\n" + "\n".join(lines) + "\n", encoding="utf-8")
    train, test = source.load(folder, source.Options(vocabulary=7, length=9, **options))
    return train, test


CASES = [(kind, ((), ())) for kind in FORMS] + [("hash", ((0.25,) * 7, (0.5,) * 7)), ("sentences", ((0.25,) * 7, (0.5,) * 7))]


@pytest.mark.parametrize(("kind", "normalisation"), CASES)
def test_the_code_makes_the_columns_of_the_source(tmp_path, monkeypatch, kind, normalisation):
    train, test = read(tmp_path, kind)
    mean, std = normalisation
    options = package_options(TaskData("t", (0, 1), train, train, test, mean, std))
    assert options.preprocessing.text_file == TEXT_FILE and (options.text.words == ()) == (kind == "hash")
    write_text_file(tmp_path, options.text)
    assert json.loads((tmp_path / TEXT_FILE).read_text(encoding="utf-8"))["length"] == 9
    monkeypatch.chdir(tmp_path)
    found = {}
    exec(text_code(options.preprocessing.record(), test.x.dim() - 1), found)
    made = found["input_of"](TEXT)
    assert made.dtype == np.float32
    assert np.allclose(made, normalise(test.x[1:], mean, std).numpy(), atol=1e-6)
    assert 0 < np.count_nonzero(made == made.max()) <= 9 and options.text.numbers == (kind == "numbers")


def test_inputs_that_are_no_text_have_no_such_code():
    split = Split(torch.zeros(2, 3), torch.arange(2), reading=Reading(("a", "b"), ("first",)))
    options = package_options(TaskData("t", (1, 0), split, split, split, class_names={0: "a", 1: "b"}))
    assert options.text is None and options.labels == ("b", "a") and options.preprocessing.steps == ("first",)
    assert text_code(options.preprocessing.record(), 1) == ""


def test_no_form_is_the_same_as_another():
    assert len({TextForm("a", (), 2, 3), TextForm("a", (), 2, 3), TextForm("a", ("b",), 2, 3)}) == 2
