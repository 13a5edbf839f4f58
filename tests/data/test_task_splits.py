"""Tasks: deterministic, disjoint, stratified, and each independent of the others."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tsn_toolkit.contracts import Split
from tsn_toolkit.data import data_hash, load_task, make_tasks, task_names
from tsn_toolkit.data.held_out import split_validation
from tsn_toolkit.data.transforms import permute_pixels
from tsn_toolkit.errors import DataError, RecipeError
from tsn_toolkit.recipe.schema import Recipe


def recipe(seed: int = 0, data: dict | None = None, **tasks: object) -> Recipe:
    return Recipe.model_validate(
        {"name": "r", "seed": seed, "model": {"factory": "a:b"}, "data": {"source": "digits", **(data or {})}, "tasks": tasks, "targets": []}
    )


def hashes(task) -> tuple[str, str, str]:
    return data_hash(task.train), data_hash(task.validation), data_hash(task.test)


def rows(split: Split) -> set[tuple[bytes, int]]:
    return {(image.numpy().tobytes(), label) for image, label in zip(split.x, split.y.tolist())}


def test_class_tasks_partition_the_data() -> None:
    tasks = make_tasks(recipe())
    assert [task.name for task in tasks] == list(task_names(recipe()))
    assert [task.classes for task in tasks] == [(0, 1), (2, 3), (4, 5), (6, 7), (8, 9)]
    assert sum(len(task.train) + len(task.validation) for task in tasks) == 1442
    assert sum(len(task.test) for task in tasks) == 355
    for task in tasks:
        assert set(task.train.y.tolist()) == set(task.validation.y.tolist()) == set(task.test.y.tolist()) == {0, 1}
        assert not rows(task.train) & rows(task.validation)
        for label in (0, 1):
            held, kept = int((task.validation.y == label).sum()), int((task.train.y == label).sum())
            assert held == round(0.1 * (held + kept))


def test_labels_follow_the_order_of_the_classes() -> None:
    both = {"split": "explicit"}
    first = load_task(recipe(**both, explicit=[{"name": "a", "classes": [7, 2]}]), 0)
    second = load_task(recipe(**both, explicit=[{"name": "a", "classes": [2, 7]}]), 0)
    assert torch.equal(first.test.x, second.test.x)
    assert torch.equal(first.test.y, 1 - second.test.y)


def test_a_seed_gives_the_same_split_and_another_seed_another() -> None:
    assert hashes(load_task(recipe(seed=3), 1)) == hashes(load_task(recipe(seed=3), 1))
    one, two = load_task(recipe(seed=3), 1), load_task(recipe(seed=4), 1)
    assert data_hash(one.test) == data_hash(two.test)
    assert data_hash(one.validation) != data_hash(two.validation)


@pytest.mark.parametrize("order", ["as_is", "shuffled"])
def test_a_task_does_not_depend_on_the_number_of_tasks(order: str) -> None:
    """The data side of: a run of T tasks = a run of 1 + (T-1) times one more task."""
    full = recipe(seed=5, order=order)
    short = recipe(seed=5, order=order, count=2)
    assert task_names(short) == task_names(full)[:2]
    assert hashes(load_task(short, 1)) == hashes(load_task(full, 1))
    lone = load_task(full, 1)
    listed = [{"name": "other", "classes": [c for c in range(10) if c not in lone.classes][:2]}, {"name": "same", "classes": list(lone.classes)}]
    assert hashes(load_task(recipe(seed=5, split="explicit", explicit=listed), 1)) == hashes(lone)


def test_no_global_random_state_is_used() -> None:
    np.random.seed(1)
    torch.manual_seed(1)
    before = np.random.get_state()[1].tolist(), torch.random.get_rng_state()
    load_task(recipe(order="shuffled"), 0)
    load_task(recipe(split="permutation", count=2), 1)
    assert np.random.get_state()[1].tolist() == before[0]
    assert torch.equal(torch.random.get_rng_state(), before[1])


def test_shuffled_classes_are_a_permutation() -> None:
    tasks = make_tasks(recipe(seed=1, order="shuffled"))
    dealt = [label for task in tasks for label in task.classes]
    assert sorted(dealt) == list(range(10)) != dealt
    assert [task.name for task in tasks] == [f"task-{index}" for index in range(5)]


def test_permutations() -> None:
    spec = recipe(seed=2, split="permutation", count=3)
    assert task_names(spec) == ("permutation-0", "permutation-1", "permutation-2")
    plain, one, two = make_tasks(spec)
    assert torch.equal(one.test.x.flatten(1).sort(dim=1).values, plain.test.x.flatten(1).sort(dim=1).values)
    assert not torch.equal(one.test.x, two.test.x)
    assert one.classes == tuple(range(10))
    assert hashes(load_task(recipe(seed=2, split="permutation", count=2), 1)) == hashes(one)


def test_permutation_keeps_channels_together_and_is_the_same_for_all() -> None:
    x = torch.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5).float()
    moved = permute_pixels(Split(x, torch.zeros(2, dtype=torch.int64)), 0, 1).x
    order = moved[0, 0].flatten().long()  # channel 0 of image 0 holds its own positions
    assert sorted(order.tolist()) == list(range(20)) != order.tolist()
    assert torch.equal(moved, x.flatten(2)[..., order].reshape(x.shape))
    flat = permute_pixels(Split(x.flatten(1), torch.zeros(2, dtype=torch.int64)), 0, 1).x
    assert torch.equal(flat.sort(dim=1).values, x.flatten(1))


def test_validation_by_hand() -> None:
    """The held-out positions are those with the smallest Philox numbers of their class."""
    labels = torch.tensor([0, 1, 0, 0, 1, 0, 0, 1])
    rest, held = split_validation(Split(torch.arange(8.0)[:, None], labels), 0.4, 9, 2)
    numbers = np.random.Philox(key=[9, 2], counter=[0, 0, 0, 2]).random_raw(8).tolist()
    zeros = sorted([0, 2, 3, 5, 6], key=lambda index: numbers[index])[:2]
    ones = sorted([1, 4, 7], key=lambda index: numbers[index])[:1]
    assert held.x[:, 0].tolist() == sorted(zeros + ones)
    assert sorted(rest.x[:, 0].tolist() + held.x[:, 0].tolist()) == list(range(8))
    with pytest.raises(DataError, match="class 1 of task 0 has 1 training example"):
        split_validation(Split(torch.zeros(3, 1), torch.tensor([0, 0, 1])), 0.5, 0, 0)


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ({"per_task": 3}, r"tasks.per_task: must divide the 10 classes of the data, got 3; \[2, 5, 10\] do"),
        ({"count": 6}, "tasks.count: 10 classes give 5 tasks of 2, got 6"),
        ({"split": "explicit", "explicit": [{"name": "a", "classes": [3, 12]}]}, "explicit.0.classes: the data has no class 12, only 0 to 9"),
        ({"split": "permutation"}, "tasks.count: is null"),
    ],
)
def test_tasks_must_fit_the_classes(tasks: dict, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_task(recipe(**tasks), 0)


def test_one_class_alone_makes_no_task(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros((12, 3)), y=np.full(12, 4), is_test=np.arange(12) >= 8)
    with pytest.raises(RecipeError, match="tasks.per_task: a task needs 2 classes or more, the data has 1. Name other data"):
        load_task(recipe(data={"source": "npz", "path": str(tmp_path / "a.npz")}), 0)


def test_labels_of_many_digits_take_no_more_memory_than_others(tmp_path: Path) -> None:
    y = np.array([20_260_101_000_000, 5] * 6)
    np.savez(tmp_path / "a.npz", x=np.arange(12.0)[:, None], y=y, is_test=np.arange(12) >= 8)
    task = load_task(recipe(data={"source": "npz", "path": str(tmp_path / "a.npz")}), 0)
    assert task.classes == (5, 20_260_101_000_000)
    assert task.test.y.tolist() == [1, 0, 1, 0]


def test_a_count_takes_the_first_of_the_listed_tasks() -> None:
    listed = [{"name": name, "classes": [2 * position, 2 * position + 1]} for position, name in enumerate("abc")]
    some = recipe(split="explicit", explicit=listed, count=2)
    assert task_names(some) == ("a", "b")
    with pytest.raises(RecipeError, match="there is no task 2: the recipe makes 2 tasks"):
        load_task(some, 2)


@pytest.mark.parametrize("index", [-1, 5])
def test_there_is_no_such_task(index: int) -> None:
    with pytest.raises(RecipeError, match=f"there is no task {index}: the recipe makes 5 tasks"):
        load_task(recipe(), index)


def test_mean_and_std_reach_every_channel(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros((12, 3, 2), np.float32), y=np.arange(12) % 2, is_test=np.arange(12) >= 8)
    task = load_task(recipe(data={"source": "npz", "path": str(tmp_path / "a.npz"), "mean": [0.5], "std": [0.25]}), 0)
    assert (task.mean, task.std) == ((0.5,) * 3, (0.25,) * 3)


def test_data_hash_sees_examples_labels_dtype_and_shape() -> None:
    x, y = torch.zeros(4, 2), torch.zeros(4, dtype=torch.int64)
    variants = [Split(x, y), Split(x + 1, y), Split(x, y + 1), Split(x.reshape(4, 1, 2), y), Split(x.int(), y)]
    assert len({data_hash(split) for split in variants}) == 5
    assert data_hash(Split(x.clone(), y.clone())) == data_hash(variants[0])
