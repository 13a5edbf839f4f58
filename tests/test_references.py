"""The dense references of a run: trained once, kept in the run's folder, and a warm one starts where the previous task's ended."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tsn_toolkit.data.splits import load_task
from tsn_toolkit.model_loading import set_head
from tsn_toolkit.models.small_cnn import small_cnn
from tsn_toolkit.pipeline.founding import found_store, strategy_config
from tsn_toolkit.pipeline.hooks import Hooks
from tsn_toolkit.pipeline.references import dense_reference
from tsn_toolkit.recipe.loading import load_recipe
from tsn_toolkit.run_folder import RunFolder
from tsn_toolkit.workshop import workshop_of_store

FIRST, SECOND = "classes-0-1", "classes-2-3"
BODY = ("conv1.weight", "conv2.weight", "conv3.weight", "conv4.weight")
STANDING_STILL = ("training.learning_rate=1e-12", "reference.epochs=1")

Train = Callable[[str, int], list[str]]


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run")


@pytest.fixture
def train(tiny_recipe: Path, folder: RunFolder) -> Train:
    """Makes the reference of one task of the tiny recipe; returns what was said."""
    silent = Hooks(say=lambda line: None)
    store = found_store(load_recipe(tiny_recipe, strategy_config=strategy_config), folder, [], silent)
    shop = workshop_of_store(store)

    def reference(kind: str, index: int) -> list[str]:
        recipe = load_recipe(tiny_recipe, overrides=[f"reference.dense={kind}", *STANDING_STILL], strategy_config=strategy_config)
        said: list[str] = []
        dense_reference(recipe, folder, shop, store, load_task(recipe, index), index, Hooks(say=said.append))
        return said

    return reference


def plant(folder: RunFolder, task: str) -> dict[str, torch.Tensor]:
    """A reference of the first task that no training would give."""
    model = set_head(small_cnn(width=8), "head", 2)
    state = {name: tensor + 0.5 for name, tensor in model.state_dict().items() if tensor.is_floating_point()}
    folder.reference(task).parent.mkdir(parents=True)
    save_file(state, folder.reference(task))
    return state


def test_a_warm_reference_starts_from_the_previous_tasks_weights(train: Train, folder: RunFolder) -> None:
    planted = plant(folder, FIRST)
    train("warm", 1)
    found = load_file(folder.reference(SECOND))
    for name in BODY:
        torch.testing.assert_close(found[name], planted[name], rtol=0, atol=1e-6)
    assert not torch.allclose(found["head.weight"], planted["head.weight"], atol=0.1)


def test_a_separate_reference_starts_afresh(train: Train, folder: RunFolder) -> None:
    planted = plant(folder, FIRST)
    train("separate", 1)
    found = load_file(folder.reference(SECOND))
    assert not any(torch.allclose(found[name], planted[name], atol=0.1) for name in BODY)


def test_a_reference_that_the_folder_holds_is_kept(train: Train, folder: RunFolder) -> None:
    said = train("warm", 1)
    assert [line.split("`")[1] for line in said] == [FIRST, SECOND]  # what it starts from was missing and came first
    before = folder.reference(SECOND).read_bytes()
    assert train("warm", 1) == []
    assert folder.reference(SECOND).read_bytes() == before
