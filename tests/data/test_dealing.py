"""Superclasses, subjects and data sets as tasks: who gets what, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tsn_toolkit.contracts import Split
from tsn_toolkit.data import load_task, make_tasks, task_names
from tsn_toolkit.data.dealing import deal_groups, first_class
from tsn_toolkit.errors import DataError, RecipeError
from tsn_toolkit.recipe.schema import Recipe, TasksSection

LABELS = np.array([0, 1, 2, 3, 4, 5] * 8)
SUBJECT = np.repeat([2, 5, 6, 9], 12)
IS_TEST = np.arange(48) % 12 >= 6
X = np.arange(48, dtype=np.float32)[:, None]


def recipe(path: Path, *, seed: int = 0, data: dict | None = None, **tasks: object) -> Recipe:
    section = {"source": "npz", "path": str(path), "options": {"subject": "subject"}, "validation": 0.3, **(data or {})}
    return Recipe.model_validate({"name": "r", "seed": seed, "model": {"factory": "a:b"}, "data": section, "tasks": tasks, "targets": []})


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    np.savez(tmp_path / "a.npz", x=X, y=np.repeat(LABELS[:24] % 3, 2), subject=SUBJECT, is_test=IS_TEST)
    return tmp_path / "a.npz"


def numbers(split: Split) -> set[int]:
    """The examples of a split: x holds their positions in the archive."""
    return {int(value) for value in split.x[:, 0]}


def test_subjects_get_their_own_examples_and_all_classes(archive: Path) -> None:
    spec = recipe(archive, split="subjects", groups_per_task=2)
    assert task_names(spec) == ("subjects-2-5", "subjects-6-9")
    first, second = make_tasks(spec)
    assert first.classes == second.classes == (0, 1, 2)
    everything = [numbers(part) for part in (first.train, first.validation, first.test, second.train, second.validation, second.test)]
    assert sum(len(part) for part in everything) == 48 == len(set().union(*everything))
    assert numbers(first.test) == {index for index in range(48) if SUBJECT[index] in (2, 5) and IS_TEST[index]}
    assert first.train.group is None


def test_a_subject_task_does_not_depend_on_the_number_of_tasks(archive: Path) -> None:
    full, short = recipe(archive, split="subjects", order="shuffled", seed=3), recipe(archive, split="subjects", order="shuffled", seed=3, count=2)
    assert task_names(short) == task_names(full)[:2] == ("task-0", "task-1")
    assert numbers(load_task(full, 1).validation) == numbers(load_task(short, 1).validation)
    owners = [{int(SUBJECT[number]) for number in numbers(task.test)} for task in make_tasks(full)]
    assert sorted(subject for group in owners for subject in group) == [2, 5, 6, 9]
    assert [min(group) for group in owners] != [2, 5, 6, 9], "seed 3 shuffles"


def test_a_limit_keeps_examples_of_every_subject_and_class(archive: Path) -> None:
    tasks = make_tasks(recipe(archive, split="subjects", data={"train_limit": 12 * 2, "test_limit": 12, "validation": 0.5}))
    for task in tasks:
        assert sorted(task.test.y.tolist()) == [0, 1, 2]
        assert sorted([*task.train.y.tolist(), *task.validation.y.tolist()]) == [0, 0, 1, 1, 2, 2]


def test_subjects_are_refused_where_the_data_knows_none(archive: Path) -> None:
    with pytest.raises(RecipeError, match=r"tasks.split: is subjects, but the data says of no example which it belongs to"):
        load_task(recipe(archive, data={"options": {}}, split="subjects"), 0)
    with pytest.raises(RecipeError, match=r"groups_per_task: must divide the 4 subjects of the data, got 3; \[1, 2, 4\] do"):
        load_task(recipe(archive, split="subjects", groups_per_task=3), 0)
    with pytest.raises(RecipeError, match="there is no task 4: the recipe makes 4 tasks"):
        load_task(recipe(archive, split="subjects"), 4)


def test_a_subject_without_test_examples_and_a_class_that_was_never_trained(tmp_path: Path) -> None:
    y, subject, is_test = LABELS % 3, SUBJECT, IS_TEST.copy()
    is_test[SUBJECT == 6] = False
    np.savez(tmp_path / "a.npz", x=X, y=y, subject=subject, is_test=is_test)
    with pytest.raises(DataError, match="task 'subjects-6': subject 6 has no example in test"):
        load_task(recipe(tmp_path / "a.npz", split="subjects"), 2)
    y = np.where((SUBJECT == 5) & ~IS_TEST, 0, y)
    np.savez(tmp_path / "a.npz", x=X, y=y, subject=subject, is_test=IS_TEST)
    with pytest.raises(DataError, match="task 'subjects-5': class 1 occurs in its test examples but in none of training"):
        load_task(recipe(tmp_path / "a.npz", split="subjects"), 1)


# -------------------------------------------------------------------------------------------------------------- superclasses


def cifar(folder: Path) -> Path:
    """Eight fine classes in four coarse ones; pixels hold the fine label."""
    fine = np.tile(np.array([3, 8, 10, 11, 12, 20, 30, 40], np.uint8), 4)
    coarse = np.tile(np.array([1, 0, 1, 0, 2, 7, 7, 2], np.uint8), 4)
    rows = np.concatenate([coarse[:, None], fine[:, None], np.repeat(fine[:, None], 3072, axis=1)], axis=1)
    rows.tofile(folder / "train.bin")
    rows[::-1].tofile(folder / "test.bin")
    return folder


def superclass_recipe(folder: Path, **tasks: object) -> Recipe:
    return recipe(folder, data={"source": "cifar-binary", "options": {"official_size": False}}, split="superclasses", **tasks)


def test_superclasses_hold_their_fine_classes(tmp_path: Path) -> None:
    spec = superclass_recipe(cifar(tmp_path))
    assert task_names(spec) == ("superclasses-0", "superclasses-1", "superclasses-2", "superclasses-7")
    tasks = make_tasks(spec)
    assert [task.classes for task in tasks] == [(8, 11), (3, 10), (12, 40), (20, 30)]
    for task in tasks:
        for split in (task.train, task.validation, task.test):
            assert torch.equal(split.x[:, 0, 0, 0].long(), torch.tensor(task.classes)[split.y])
    assert load_task(superclass_recipe(tmp_path, groups_per_task=2), 1).classes == (12, 40, 20, 30)


def test_a_class_of_two_superclasses_is_refused() -> None:
    data = Split(torch.zeros(4, 1), torch.tensor([0, 1, 1, 2]), torch.tensor([0, 0, 5, 5]))
    with pytest.raises(RecipeError, match="class 1 lies in the groups 0 and 5 of the data"):
        deal_groups(TasksSection(split="superclasses"), data, 0)


@pytest.mark.data
def test_the_official_superclasses(tsn_data: Path) -> None:
    data = {"source": "cifar-binary", "path": str(tsn_data / "cifar-100-binary"), "options": {}}
    task = load_task(recipe(tsn_data, data=data, split="superclasses"), 14)
    assert (task.name, task.classes) == ("superclasses-14", (2, 11, 35, 46, 98))  # people: baby, boy, girl, man, woman
    assert (len(task.train), len(task.validation), len(task.test)) == (1750, 750, 500)


@pytest.mark.data
def test_activity_recognition_by_subject(tsn_data: Path) -> None:
    spec = recipe(tsn_data / "har" / "har_f16.npz", split="subjects", groups_per_task=3)
    assert task_names(spec)[:2] == ("subjects-0-2", "subjects-3-5") and len(task_names(spec)) == 10
    task = load_task(spec, 0)
    assert task.train.x.shape[1:] == (9, 128) and task.classes == tuple(range(6))
    assert (len(task.train) + len(task.validation), len(task.test)) == (741, 249)


# ------------------------------------------------------------------------------------------------------------------ data sets


def archive_of(path: Path, *, classes: int, size: int, channels: int = 1, held: bool = True) -> Path:
    y = np.arange(24) % classes
    x = np.random.default_rng(classes).integers(0, 256, (24, channels, size, size), np.uint8)
    np.savez(path, x=x, y=y, **({"is_test": np.arange(24) >= 16} if held else {}))
    return path


def dataset_recipe(folder: Path, entries: list[dict], **tasks: object) -> Recipe:
    common = {"input_shape": [1, 6, 6], "options": {}, "mean": [0.5], "std": [0.5]}
    return recipe(folder / "first.npz", data=common, split="datasets", datasets=entries, **tasks)


@pytest.fixture
def sets(tmp_path: Path) -> list[dict]:
    archive_of(tmp_path / "first.npz", classes=2, size=6)
    archive_of(tmp_path / "second.npz", classes=3, size=4, channels=3)
    archive_of(tmp_path / "third.npz", classes=4, size=9, held=False)
    third = {"name": "third", "path": str(tmp_path / "third.npz"), "options": {"is_test": None}, "test_split": {"fraction": 0.25}}
    return [{"name": "first"}, {"name": "second", "path": str(tmp_path / "second.npz"), "mean": [0.25], "std": [0.125]}, third]


def test_data_sets_come_in_one_shape_with_classes_of_their_own(tmp_path: Path, sets: list[dict]) -> None:
    spec = dataset_recipe(tmp_path, sets)
    assert task_names(spec) == ("first", "second", "third")
    tasks = make_tasks(spec)
    assert {task.train.x.shape[1:] for task in tasks} == {(1, 6, 6)}
    assert [task.classes for task in tasks] == [(0, 1), (10_000, 10_001, 10_002), (20_000, 20_001, 20_002, 20_003)]
    assert [(task.mean, task.std) for task in tasks] == [((0.5,), (0.5,)), ((0.25,), (0.125,)), ((0.5,), (0.5,))]
    assert [len(task.test) for task in tasks] == [8, 8, 8], "a quarter of 6 of each of 4 classes, rounded, is 2"
    assert task_names(dataset_recipe(tmp_path, sets, count=2)) == ("first", "second")
    with pytest.raises(RecipeError, match="there is no task 2: the recipe makes 2 tasks"):
        load_task(dataset_recipe(tmp_path, sets, count=2), 2)


def test_a_common_label_space_is_one_set_of_classes(tmp_path: Path, sets: list[dict]) -> None:
    entries = [{**sets[0], "label_space": "digits"}, sets[1], {**sets[2], "label_space": "digits"}]
    assert [task.classes[0] for task in make_tasks(dataset_recipe(tmp_path, entries))] == [0, 10_000, 0]
    tasks = TasksSection.model_validate({"split": "datasets", "datasets": [{"name": "a"}, {"name": "b", "label_space": "a"}]})
    assert first_class(tasks, 1) == 10_000, "a space that is named is another than the one that a task has for itself"


def test_data_without_a_test_part_says_so(tmp_path: Path, sets: list[dict]) -> None:
    bare = {key: value for key, value in sets[2].items() if key != "test_split"}
    with pytest.raises(DataError, match=r"third\.npz has no test part. Set `test_split`"):
        load_task(dataset_recipe(tmp_path, [*sets[:2], bare]), 2)
    with pytest.raises(DataError, match=r"first\.npz has a test part of its own, beside `test_split` \{'fraction': 0.5, 'seed': 0\}"):
        load_task(dataset_recipe(tmp_path, [{**sets[0], "test_split": {"fraction": 0.5}}]), 0)


def test_the_test_part_follows_its_own_seed_alone(tmp_path: Path, sets: list[dict]) -> None:
    def held_out_of(seed: int, split_seed: int) -> torch.Tensor:
        entry = {**sets[2], "test_split": {"fraction": 0.25, "seed": split_seed}}
        return load_task(dataset_recipe(tmp_path, [entry]).model_copy(update={"seed": seed}), 0).test.x

    assert torch.equal(held_out_of(0, 0), held_out_of(5, 0))
    assert not torch.equal(held_out_of(0, 0), held_out_of(0, 1))


def test_labels_that_would_run_into_the_next_space_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "first.npz", x=np.arange(288, dtype=np.uint8).reshape(8, 1, 6, 6), y=np.array([0, 10_000] * 4), is_test=np.arange(8) >= 4)
    with pytest.raises(DataError, match="data set 'a' has label 10000; with `split: datasets` labels are below 10000"):
        load_task(dataset_recipe(tmp_path, [{"name": "a"}]), 0)


@pytest.mark.data
def test_three_data_sets(tsn_data: Path) -> None:
    letters = {f"train_{part}": f"t10k-{part}-idx{rank}-ubyte" for part, rank in (("images", 3), ("labels", 1))}
    options = {**letters, "test_images": None, "test_labels": None}
    entries = [
        {"name": "mnist", "path": str(tsn_data / "mnist"), "train_limit": 500, "test_limit": 100},
        {"name": "notmnist", "path": str(tsn_data / "notmnist"), "options": options, "test_split": {"fraction": 0.2}},
    ]
    spec = recipe(tsn_data, data={"source": "idx", "path": None, "options": {}, "input_shape": [1, 28, 28]}, split="datasets", datasets=entries)
    first, second = make_tasks(spec)
    assert (len(first.train) + len(first.validation), len(first.test)) == (500, 100)
    assert (len(second.train) + len(second.validation), len(second.test)) == (8000, 2000)
    assert second.classes == tuple(range(10_000, 10_010))
