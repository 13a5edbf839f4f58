"""What was done to raw examples and labels goes with the data, so that a package can say it."""

import re
from pathlib import Path

import numpy
import numpy as np
import pytest
import torch

from tsn_toolkit.contracts import Reading, Split, TextForm
from tsn_toolkit.data import load_data
from tsn_toolkit.data.splits import load_task
from tsn_toolkit.data.transforms import permute_pixels, rotate
from tsn_toolkit.errors import DataError
from tsn_toolkit.recipe.schema import DataSection, Recipe

ROWS = "kind,width,height\ncat,1,2\ndog,3,4\nemu,5,6\ncat,7,8\ndog,9,10\nemu,11,12\n"


def section(path: Path, source: str, *, class_names=None, input_shape=None, **options: object) -> dict[str, object]:
    section = {"source": source, "path": str(path), "options": options, "class_names": class_names, "input_shape": input_shape}
    return {key: value for key, value in section.items() if value is not None}


def reading(section: dict[str, object]) -> Reading:
    train, test = load_data(DataSection.model_validate(section))
    assert train.reading == test.reading
    return test.reading


@pytest.fixture
def table(tmp_path: Path) -> Path:
    for part in ("train", "test"):
        (tmp_path / f"{part}.csv").write_text(ROWS if part == "train" else ROWS.replace("1,", "0,"), encoding="utf-8")
    return tmp_path


def test_columns_and_names_of_a_table(table: Path) -> None:
    assert reading(section(table, "csv", label="kind")) == Reading(("cat", "dog", "emu"), ("the numbers width, height in this order",))


@pytest.mark.parametrize(("tokens", "words"), [("vocabulary", ("dog", ".")), ("hash", ())])
def test_words_of_a_column_of_text(tmp_path: Path, tokens: str, words: tuple[str, ...]) -> None:
    (tmp_path / "train.csv").write_text("label,text\n0,Dog dog.\n1,a dog\n0,dog.\n1,b.\n", encoding="utf-8")
    (tmp_path / "test.csv").write_text("label,text\n0,dog\n1,cat\n", encoding="utf-8")
    found = reading(section(tmp_path, "csv", text="text", vocabulary=3, length=4, tokens=tokens))
    assert found == Reading(text=TextForm(r"\w+|[^\w\s]", words, 3, 4))


def test_words_of_sentences(tmp_path: Path) -> None:
    for part in ("train", "test"):
        (tmp_path / part).write_text("0 who is who ?\n1 is it\n0 who\n1 it .\n" + ("0 they\n" if part == "test" else ""), encoding="latin-1")
    found = reading(section(tmp_path, "labelled_text", train="train", test="test", vocabulary=4, length=3))
    assert found == Reading(text=TextForm("[^ ]+", ("who", "is", "it"), 4, 3))


def test_names_and_sizes_of_image_folders(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed: pip install 'tsn-toolkit[images]'")
    for seed, name in enumerate(f"{part}/{kind}/{number}.png" for part in ("train", "test") for kind in ("cat", "dog") for number in (0, 1)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        image.fromarray(np.random.default_rng(seed).integers(0, 256, (6, 5, 3), np.uint8)).save(tmp_path / name)
    steps = ("read as red, green, blue", "resized to 4 x 3 (height x width) by Pillow's BILINEAR")
    assert reading(section(tmp_path, "image-folder", size=[4, 3])) == Reading(("cat", "dog"), steps)
    shaped = reading(section(tmp_path, "image-folder", input_shape=[1, 8, 8]))
    assert shaped.steps[0] == "read as red, green, blue" and shaped.steps[1].startswith("brought to shape (1, 8, 8): bilinear")


def test_names_that_stand_beside_official_images(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).integers(0, 256, (2, 20, 1 + 3072), np.uint8)
    rows[:, :, 0] = np.arange(20) % 10
    for part in range(1, 6):
        rows[0].tofile(tmp_path / f"data_batch_{part}.bin")
    rows[1].tofile(tmp_path / "test_batch.bin")
    assert reading(section(tmp_path, "cifar-binary", official_size=False)).class_names == ()
    (tmp_path / "batches.meta.txt").write_text("".join(f"kind{number}\n" for number in range(10)) + "\n")
    assert reading(section(tmp_path, "cifar-binary", official_size=False)).class_names[9] == "kind9"
    (tmp_path / "batches.meta.txt").write_text("one\ntwo\n")
    assert reading(section(tmp_path, "cifar-binary", official_size=False)).class_names == ()


def test_the_recipe_names_classes(table: Path) -> None:
    assert reading(section(table, "csv", label="kind", class_names=["a", "b", "c"])).class_names == ("a", "b", "c")
    with pytest.raises(DataError, match="has a class 2, its class names are 2, for 0 to 1"):
        reading(section(table, "csv", label="kind", class_names=["a", "b"]))


def recipe(table: Path, **tasks: object) -> Recipe:
    data = {**section(table, "csv", label="kind"), "validation": 0.5}
    return Recipe.model_validate({"schema": 1, "name": "r", "model": {"factory": "m:f"}, "data": data, "tasks": tasks})


def test_a_task_names_its_logits(table: Path) -> None:
    task = load_task(recipe(table, split="explicit", explicit=[{"name": "a", "classes": [2, 0]}]), 0)
    assert (task.classes, task.labels) == ((2, 0), ("emu", "cat"))
    assert task.test.reading.steps == ("the numbers width, height in this order",)
    assert task.relabelled((1, 0, 7), lambda labels: labels).labels == ("dog", "cat", 7)


def test_names_follow_the_numbers_of_several_data_sets(table: Path) -> None:
    entries = [{"name": "a"}, {"name": "b", "class_names": ["x", "y", "z"]}]
    task = load_task(recipe(table, split="datasets", datasets=entries), 1)
    assert (task.classes, task.labels) == ((10000, 10001, 10002), ("x", "y", "z"))
    other = {"name": "b", "source": "csv", "path": str(table), "options": {"label": "kind"}}
    assert load_task(recipe(table, split="datasets", datasets=[{"name": "a"}, other]), 1).labels == ("cat", "dog", "emu")


def test_a_permutation_says_its_order_in_numpy() -> None:
    split = Split(torch.arange(2 * 3 * 4 * 5, dtype=torch.float32).reshape(2, 3, 4, 5), torch.arange(2))
    assert permute_pixels(split, 7, 0).reading == Reading()
    permuted = permute_pixels(split, 7, 2)
    (step,) = permuted.reading.steps
    expression = re.fullmatch(r"its 20 positions taken in the order (.*)", step).group(1)
    order = eval(expression, {"numpy": numpy})
    assert np.array_equal(split.x.reshape(2, 3, 20).numpy()[..., order].reshape(2, 3, 4, 5), permuted.x.numpy())


def test_a_turn_says_its_angle() -> None:
    split = Split(torch.zeros(2, 1, 4, 4), torch.arange(2), reading=Reading(("a", "b"), ("first",)))
    assert rotate(split, 360.0).reading.steps == ("first",)
    turned = rotate(split, 30.0).reading
    assert turned.class_names == ("a", "b") and turned.steps[1].startswith("turned by 30 degrees counterclockwise")
