"""Strategies that share one network, the whole way: R of the newest revision, superseded bytes, exports, the same bytes however a run is cut."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import Result

from tsn_toolkit.data.splits import load_task
from tsn_toolkit.extract import extract
from tsn_toolkit.model_loading import set_head
from tsn_toolkit.revisions import answer, superseded_bytes
from tsn_toolkit.store.answering import newest_part
from tsn_toolkit.store.store import Store
from tsn_toolkit.trainer.device import seeded
from tsn_toolkit.trainer.loop import evaluate
from tsn_toolkit.verify.measure import measure_store
from tsn_toolkit.workshop import recipe_of_task, workshop_of_store

NAMES = ["classes-0-1", "classes-2-3", "classes-4-5"]
ER = ("--set", "strategy={name: er, options: {buffer: 40}}")


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def er_run(tsn: Callable[..., Result], tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("er") / "run"
    assert tsn("run", tiny_recipe, *ER, "--out", folder).exit_code == 0
    return folder


def test_every_row_of_r_is_the_newest_revision_s(er_run: Path) -> None:
    """Row t is what revision t alone scores on all tasks so far, here computed from its part by hand."""
    summary = json.loads((er_run / "summary.json").read_text(encoding="utf-8"))
    store = Store.open(er_run / "store")
    shop = workshop_of_store(store)
    for number, name in enumerate(NAMES):
        weights, revision = store.weights(name), store.revision(name)
        assert revision is not None and list(revision.rows) == NAMES[: number + 1]
        model = extract(shop.factory, shop.graph, weights).model
        row = []
        for task in NAMES[: number + 1]:
            recipe, index = recipe_of_task(store, task)
            data = load_task(recipe, index)
            logits = list(revision.rows[task])
            x = (data.test.x.float() / 255).contiguous()
            row.append(float((model(x)[:, logits].argmax(1) == data.test.y).double().mean()))
        assert [value for value in summary["R"][number] if value is not None] == pytest.approx(row)


def test_superseded_bytes_are_those_of_all_parts_but_the_last(er_run: Path) -> None:
    summary = json.loads((er_run / "summary.json").read_text(encoding="utf-8"))
    store = Store.open(er_run / "store")
    sizes = [entry.size_bytes for entry in store.entries]
    assert summary["superseded_bytes"] == superseded_bytes(store) == sum(sizes[:-1]) > 0
    assert {newest_part(store, name) for name in NAMES} == {NAMES[-1]}
    memory = store.revision(NAMES[-1]).memory  # type: ignore[union-attr]
    assert len(memory["rows"]) == 40 and memory["x"].shape == (40, 1, 8, 8)
    assert sizes[-1] > memory["x"].nbytes + memory["rows"].nbytes, "a replay buffer is paid for"


def test_a_run_is_the_same_bytes_as_one_task_and_added_tasks(tsn: Callable[..., Result], er_run: Path, tiny_recipe: Path, tmp_path: Path) -> None:
    assert tsn("run", tiny_recipe, *ER, "--set", "tasks.count=1", "--out", tmp_path / "run").exit_code == 0
    for _ in range(2):
        assert tsn("add-task", tmp_path / "run" / "store", tiny_recipe, *ER).exit_code == 0
    assert files_of(tmp_path / "run" / "store") == files_of(er_run / "store")


def test_an_older_task_is_exported_as_the_newest_revision_answers_for_it(tsn: Callable[..., Result], er_run: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    done = tsn("export", er_run / "store", "--task", NAMES[0], "--target", "cpu_onnxruntime", "--out", tmp_path / "package", "--json")
    assert done.exit_code == 0, done.stderr
    store = Store.open(er_run / "store")
    shop, found = workshop_of_store(store), answer(store, NAMES[0])
    recipe, index = recipe_of_task(store, NAMES[0])
    data = found.as_logits(load_task(recipe, index))
    assert found.weights.classes == (0, 1) and found.part == NAMES[-1]
    _, accuracy = evaluate(extract(shop.factory, shop.graph, found.weights).model, data.test, data, torch.device("cpu"))
    (row,) = (row for row in measure_store(er_run / "store")["tasks"] if row["name"] == NAMES[0])
    assert row["accuracy"] == accuracy and row["codes_hash"] == store.codes_hash(NAMES[-1])
    packages = json.loads(done.stdout)["packages"]
    assert packages["cpu_onnxruntime"]["parity"]["accuracy"] == pytest.approx(accuracy, abs=0.05)


def test_without_the_task_s_name_all_logits_compete(tsn: Callable[..., Result], tiny_recipe: Path, tmp_path: Path) -> None:
    options = ("--set", "strategy={name: finetune, options: {setting: class-incremental}}", "--set", "tasks.count=2")
    assert tsn("run", tiny_recipe, *options, "--out", tmp_path / "run").exit_code == 0
    store = Store.open(tmp_path / "run" / "store")
    found = answer(store, NAMES[0])
    assert found.weights.classes == (0, 1, 2, 3) and found.rows == (0, 1)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text(encoding="utf-8"))
    assert summary["R"][1][0] < summary["R"][0][0], "fine-tuning on other classes loses the old ones"


def test_one_store_holds_one_isolation(tsn: Callable[..., Result], er_run: Path, tiny_run: Path, tiny_recipe: Path) -> None:
    before = files_of(tiny_run / "store"), files_of(er_run / "store")
    refused = tsn("add-task", tiny_run / "store", tiny_recipe, "--set", "strategy.name=er", "--set", "tasks.count=4")
    assert refused.exit_code == 1 and "holds tasks of isolation `exact`, strategy `er` has isolation `none`" in refused.stderr
    refused = tsn("add-task", er_run / "store", tiny_recipe, "--set", "tasks.count=4")
    assert refused.exit_code == 1 and "holds tasks of isolation `none`, strategy `tsn` has isolation `exact`" in refused.stderr
    refused = tsn("add-task", er_run / "store", tiny_recipe, *ER, "--set", "tasks.count=4", "--set", "parent=trunk")
    assert refused.exit_code == 1 and "`parent` is trunk, but strategy `er` continues one network" in refused.stderr
    assert before == (files_of(tiny_run / "store"), files_of(er_run / "store"))


def test_tasks_that_stand_for_themselves_answer_for_themselves(tiny_run: Path) -> None:
    store = Store.open(tiny_run / "store")
    for entry in store.entries:
        found = answer(store, entry.name)
        assert (found.part, found.rows) == (entry.name, None)
    assert superseded_bytes(store) == 0


@pytest.fixture(scope="module")
def domain_run(tsn: Callable[..., Result], tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three permutations of the same classes, one network whose logits all compete."""
    folder = tmp_path_factory.mktemp("domain") / "run"
    strategy = "strategy={name: er, options: {buffer: 40, setting: domain-incremental}}"
    settings = (strategy, "tasks={split: permutation, count: 3}", "training.epochs=3")
    assert tsn("run", tiny_recipe, *(part for setting in settings for part in ("--set", setting)), "--out", folder).exit_code == 0
    return folder


def test_forward_transfer_is_what_each_revision_knows_of_the_task_that_comes_next(domain_run: Path) -> None:
    """R[t, t+1] and b[t+1] by hand: the revision and a network that learned nothing, on the next task's test examples."""
    summary = json.loads((domain_run / "summary.json").read_text(encoding="utf-8"))
    store = Store.open(domain_run / "store")
    shop = workshop_of_store(store)
    recipe, _ = recipe_of_task(store, "permutation-2")
    gains = []
    for number in (0, 1):
        data = load_task(recipe, number + 1)
        x = data.test.x.float() / 255
        fresh = shop.factory().eval()
        with seeded(recipe.seed):
            set_head(fresh, shop.graph.head, len(data.classes))
        revision = extract(shop.factory, shop.graph, store.weights(f"permutation-{number}")).model
        before, untrained = (float((model(x).argmax(1) == data.test.y).double().mean()) for model in (revision, fresh))
        assert summary["R"][number][number + 1] == pytest.approx(before)
        gains.append(before - untrained)
    assert summary["fwt"] == pytest.approx(sum(gains) / 2)


def test_tasks_with_logits_of_their_own_have_no_forward_transfer(er_run: Path) -> None:
    summary = json.loads((er_run / "summary.json").read_text(encoding="utf-8"))
    assert summary["fwt"] is None and summary["R"][0][1:] == [None, None]
