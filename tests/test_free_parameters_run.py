"""From recipe to store with free parameters: run, add-task, resume, verify, inspect, pack, retire, analyze, references, denominators, budget."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tsn_toolkit.bench import denominators
from tsn_toolkit.bench.denominators import measure_denominators
from tsn_toolkit.free_parameters import free_parameters
from tsn_toolkit.plan.file import load_measured
from tsn_toolkit.plan.sensitivity import constant_bytes
from tsn_toolkit.store.inspect import inspect_store
from tsn_toolkit.store.store import Store
from tsn_toolkit.workshop import workshop_of_store

sys.path.insert(0, str(Path(__file__).parent))
import free_parameter_nets as nets  # noqa: E402

NETS = Path(nets.__file__)
NAMES = {"cls_token", "pos_embed", "blocks.0.scale1.gamma", "blocks.0.scale2.gamma"}
RECIPE = f"""\
schema: 1
name: free
model:
  factory: {NETS}:tiny_vit(classes=10)
data:
  source: digits
  train_limit: 240
  test_limit: 100
tasks:
  count: 3
plan:
  units_keep: 0.75
training:
  epochs: 1
  optimizer: adam
  learning_rate: 0.005
reference:
  dense: separate
parent: previous
targets: []
bench:
  seconds: 0.02
"""


def files_of(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def owners(store):
    """Task -> names of the free parameters that its part holds."""
    return {entry.name: {record.name for record in store.part(entry.name).owned_parameters} for entry in store.entries}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("free") / "free.yaml"
    path.write_text(RECIPE, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def run(tsn, recipe, tmp_path_factory):
    """A run of three tasks, the third added to a run of two; nobody writes into it."""
    folder = tmp_path_factory.mktemp("free") / "run"
    done = tsn("run", recipe, "--out", folder, "--json", "--set", "tasks.count=2")
    assert done.exit_code == 0, done.stderr
    added = tsn("add-task", folder / "store", recipe)
    assert added.exit_code == 0, added.stderr
    return folder


def test_one_task_of_a_line_owns_them(tsn, run):
    store = Store.open(run / "store")
    assert list(owners(store).values()) == [NAMES, set(), set()]
    assert "free_parameters" not in store.recipe(store.entries[0].name)["plan"], "a store says no more than it must"
    verified = tsn("verify", run / "store")
    assert verified.exit_code == 0, verified.stderr
    inspected = json.loads(tsn("inspect", run / "store", "--json").stdout)
    held = [part["breakdown"].get("free_parameters", 0) for part in inspected["parts"]]
    assert [count > 0 for count in held] == [False, False, True, False, False]
    assert inspected["total_bytes"] == sum(len(data) for data in files_of(run / "store").values())
    assert "free" in tsn("inspect", run / "store").stdout.splitlines()[0].split()


def test_a_task_that_is_retired_and_learned_again_has_the_same_bytes(tsn, recipe, run, tmp_path):
    """It follows from the committed store, the recipe, the seed and its data alone."""
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    last = Store.open(folder / "store").entries[-1].name
    assert tsn("retire", folder / "store", last).exit_code == 0
    again = tsn("add-task", folder / "store", recipe)
    assert again.exit_code == 0, again.stderr
    assert files_of(folder / "store") == files_of(run / "store")


def test_a_packed_store_of_the_last_task_answers_alike(tsn, run, tmp_path):
    store = Store.open(run / "store")
    last = store.entries[-1].name
    assert tsn("pack", run / "store", tmp_path / "one.tsn", "--task", last).exit_code == 0
    assert tsn("unpack", tmp_path / "one.tsn", tmp_path / "one").exit_code == 0
    ours, theirs = store.weights(last).free_parameters, Store.open(tmp_path / "one").weights(last).free_parameters
    assert set(ours) == NAMES and all((ours[name] == theirs[name]).all() for name in NAMES)
    refused = tsn("retire", tmp_path / "one", store.entries[0].name)
    assert refused.exit_code == 1 and "read by its children" in refused.stderr


def test_references_and_denominators_hold_them(run, monkeypatch):
    store = Store.open(run / "store")
    shop = workshop_of_store(store)
    references = sorted((run / "references").glob("*.safetensors"))
    assert len(references) == 2 and all(set(load_file(path)) >= NAMES for path in references)
    values = free_parameters(shop.factory())
    count = sum(value.numel() for value in values.values())
    sizes = measure_denominators(shop.factory, shop.graph, store)
    dense = sum(value.numel() for value in shop.factory().state_dict().values())
    assert sizes["dense_fp32"] > 4 * dense and sizes["separate_fp32"] > 3 * 4 * (dense - 70) and sizes["separate_int8"] > 3 * 4 * count
    alone = sum(value.numel() * 2 + value.numel() // value.shape[-1] for value in values.values())  # a float16 per value, an exponent per row
    parts = inspect_store(store)["parts"]
    owned = next(part["breakdown"]["free_parameters"] for part in parts if part["path"] == store.entries[0].path)
    assert owned == alone
    answer = denominators.answer
    bare = lambda found: replace(found, weights=replace(found.weights, free_parameters={}))  # noqa: E731
    monkeypatch.setattr(denominators, "answer", lambda store, task: bare(answer(store, task)))
    less = measure_denominators(shop.factory, replace(shop.graph, free_parameters=()), store)
    assert sizes["separate_encoded"] - less["separate_encoded"] > 3 * alone, "each task alone pays for its own"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(2)
    path = tmp_path_factory.mktemp("checkpoint") / "vit.pt"
    torch.save(nets.tiny_vit(classes=10).state_dict(), path)
    return path


def with_checkpoint(checkpoint, *settings):
    return [part for setting in (f"model.checkpoint={checkpoint}", "tasks.count=2", "reference.dense=none", *settings) for part in ("--set", setting)]


def test_a_trained_trunk_holds_them_for_all_tasks(tsn, recipe, checkpoint, tmp_path):
    done = tsn("run", recipe, "--out", tmp_path / "run", *with_checkpoint(checkpoint))
    assert done.exit_code == 0, done.stderr
    store = Store.open(tmp_path / "run" / "store")
    trained = torch.load(checkpoint, weights_only=True)
    assert list(owners(store).values()) == [set(), set()]
    for name, value in store.trunk().free_parameters.items():
        torch.testing.assert_close(torch.from_numpy(value), trained[name], rtol=1e-3, atol=1e-6)
        assert all((store.weights(entry.name).free_parameters[name] == value).all() for entry in store.entries)


def test_a_recipe_lets_tasks_own_theirs(tsn, recipe, checkpoint, tmp_path):
    done = tsn("run", recipe, "--out", tmp_path / "run", *with_checkpoint(checkpoint, "plan.free_parameters=own", "plan.vectors=int8"))
    assert done.exit_code == 0, done.stderr
    store = Store.open(tmp_path / "run" / "store")
    assert list(owners(store).values()) == [NAMES, NAMES]
    assert store.recipe(store.entries[0].name)["plan"]["free_parameters"] == "own"


@pytest.mark.parametrize("kind", ["seed", "checkpoint"])
def test_a_plan_under_a_budget(tsn, recipe, checkpoint, tmp_path, kind):
    budget = "plan.budget={macs_kept: 0.9, units: [0.5]}" if kind == "checkpoint" else "plan.budget={size_bytes: 6000}"
    limits = ("plan.units_keep=1.0", budget, f"trunk.kind={kind}", "targets=[]")
    done = tsn("plan", recipe, "--out", tmp_path / "plan.yaml", *with_checkpoint(checkpoint, *limits))
    assert done.exit_code == 0, done.stderr + done.stdout
    assert load_measured(tmp_path / "plan.yaml") is not None


def test_bytes_of_a_plan_count_them_where_a_task_owns_them(run):
    shop = workshop_of_store(Store.open(run / "store"))
    rows = {"cls_token": 1, "pos_embed": nets.TOKENS + 1, "blocks.0.scale1.gamma": 1, "blocks.0.scale2.gamma": 1}
    without = constant_bytes(shop.factory(), shop.graph, 8, free_parameters=False)
    assert constant_bytes(shop.factory(), shop.graph, 8) - without == sum(count * (2 * 16 + 1) for count in rows.values())


def test_analyze_shows_what_goes_through_them(tsn):
    done = tsn("analyze", f"{NETS}:scaled_cnn()", "--input", "1x1x8x8", "--json")
    assert done.exit_code == 0, done.stderr
    assert "gamma" in done.stdout and "offset" in done.stdout


def test_packed_parameters_stay_refused_by_name(tsn, recipe, tmp_path):
    (tmp_path / "nets.py").write_text(
        "from torch import nn\n"
        "class Recurs(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.steps, self.head = nn.GRU(8, 8, batch_first=True), nn.Linear(8, 10)\n"
        "    def forward(self, x):\n"
        "        return self.head(self.steps(x[:, 0])[0].mean(1))\n"
    )
    refused = tsn("run", recipe, "--out", tmp_path / "run", "--set", f"model.factory={tmp_path / 'nets.py'}:Recurs()")
    assert refused.exit_code == 1 and "a store has no place for parameter `steps.weight_ih_l0`" in refused.stderr, refused.stderr


def test_words_beyond_the_embedding_are_named_before_training(tsn, recipe, tmp_path):
    x = np.random.default_rng(0).integers(0, 40, (120, 12)).astype(np.float32)
    x[116, 0] = 41  # a test example of class 0
    np.savez(tmp_path / "words.npz", x=x, y=np.arange(120) % 4, is_test=np.arange(120) >= 80)
    data = f"data={{source: npz, path: {tmp_path / 'words.npz'}}}"
    refused = tsn("run", recipe, "--out", tmp_path / "run", "--set", f"model.factory={NETS}:token_net()", "--set", data, "--set", "tasks.count=1")
    assert refused.exit_code == 1, refused.stdout
    assert (
        "hold the numbers 0 to 41, and the network looks numbers up in a table of 40 rows. Build the network with 42 rows or more" in refused.stderr
    )
    assert not Store.open(tmp_path / "run" / "store").entries
