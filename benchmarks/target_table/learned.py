"""The first task of a recipe, learned by the tool itself, with the dense network that it is compared with; kept in a run's folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from tsn_toolkit.contracts import ActivationRange, ExtractedModel, TaskData
from tsn_toolkit.data.splits import load_task
from tsn_toolkit.extract import extract
from tsn_toolkit.pipeline.founding import found_store, strategy_config
from tsn_toolkit.pipeline.hooks import Hooks, logged
from tsn_toolkit.pipeline.learning import learn_and_commit
from tsn_toolkit.pipeline.references import dense_reference
from tsn_toolkit.recipe.loading import load_recipe, resolve_recipe
from tsn_toolkit.recipe.schema import Recipe
from tsn_toolkit.recipe.yaml_document import dump_yaml
from tsn_toolkit.run_folder import RunFolder, create_run_folder
from tsn_toolkit.store.store import Store
from tsn_toolkit.target import load_target
from tsn_toolkit.trainer.loop import evaluate
from tsn_toolkit.workshop import workshop_of_store

BOUND = ("tasks.count=1", "targets=[cpu_openvino]", "bench.seconds=0.5")
"""One task, whose codes are bounded by the strictest target, so that every target takes it."""


@dataclass(frozen=True)
class Model:
    """What is learned.

    Attributes:
        name: of the run's folder.
        words: what kind of network it is, for the page.
        recipe: its name.
        overrides: `key=value` texts over the recipe.
    """

    name: str
    words: str
    recipe: str
    overrides: tuple[str, ...] = BOUND


@dataclass(frozen=True)
class Learned:
    """One task as its store holds it.

    Attributes:
        model: what was learned.
        extracted, ranges: the small model.
        dense: the float32 network it is compared with.
        data: of the task.
        dense_accuracy, store_accuracy: on the task's whole test part; nothing is chosen by it.
        trunk_bytes, task_bytes: parts of the store on disk.
        dense_bytes: of the dense network as a safetensors file.
        weights: of the dense network, its head included.
    """

    model: Model
    extracted: ExtractedModel
    ranges: Mapping[str, ActivationRange]
    dense: nn.Module
    data: TaskData
    dense_accuracy: float
    store_accuracy: float
    trunk_bytes: int
    task_bytes: int
    dense_bytes: int
    weights: int


def learn(model: Model, work: Path, say: Callable[[str], None]) -> Learned:
    """The task out of `work`/name, where it is learned first if it is not there.

    Args:
        model: what is learned.
        work: folder of the runs' folders; one that `tsn run RECIPE --set ... --out` made with the same overrides serves as well.
        say: called with news.

    Raises:
        SystemExit: the folder holds a run of another recipe.
        TsnError: the data is missing, or learning failed.
    """
    recipe = load_recipe(model.recipe, overrides=model.overrides, strategy_config=strategy_config)
    folder = _folder_of(recipe, work / model.name)
    hooks = logged(folder, Hooks(say=say))
    if not (folder.store / "manifest.json").is_file():
        found_store(recipe, folder, [load_target(name) for name in recipe.targets], hooks)
    store, data = Store.open(folder.store), load_task(recipe, 0)
    shop = workshop_of_store(store)
    if data.name not in {entry.name for entry in store.entries}:
        say(f"{model.name}, task `{data.name}`: learning")
        learn_and_commit(recipe, store, shop, data, 0, hooks)
        store = Store.open(folder.store)
    dense, dense_accuracy = dense_reference(recipe, folder, shop, store, data, 0, hooks)
    assert dense_accuracy is not None, "the recipes of the benchmarks have a reference"
    weights = store.weights(data.name)
    extracted = extract(shop.factory, shop.graph, weights)
    return Learned(
        model,
        extracted,
        weights.ranges,
        dense.eval(),
        data,
        dense_accuracy,
        evaluate(extracted.model, data.test, data, torch.device("cpu"))[1],
        (folder.store / "trunk.safetensors").stat().st_size,
        store.entry(data.name).size_bytes,
        folder.reference(data.name).stat().st_size,
        sum(parameter.numel() for parameter in dense.parameters() if parameter.dim() > 1),
    )


def _folder_of(recipe: Recipe, path: Path) -> RunFolder:
    """A new run's folder, or the one of a former run of exactly this recipe."""
    text = dump_yaml(resolve_recipe(recipe))
    folder = RunFolder(path)
    if not folder.recipe.is_file():
        return create_run_folder(path, text)
    if folder.recipe.read_text(encoding="utf-8") != text:
        raise SystemExit(f"{path} holds a run of another recipe or of other settings. Remove the folder, or name another one with --work.")
    return folder
