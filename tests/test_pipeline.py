"""The whole way from a recipe to a store: earlier tasks stay as they are, accuracy is re-measured, the same recipe gives the same bytes."""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import Result

from tsn_toolkit.contracts import TaskResult
from tsn_toolkit.data.splits import load_task
from tsn_toolkit.extract import extract
from tsn_toolkit.models.small_cnn import small_cnn
from tsn_toolkit.pipeline.founding import stored_recipe, strategy_config
from tsn_toolkit.recipe.loading import load_recipe
from tsn_toolkit.recipe.yaml_document import parse_yaml
from tsn_toolkit.store.inspect import inspect_store
from tsn_toolkit.store.manifest import Manifest, hash_bytes, read_manifest
from tsn_toolkit.store.store import Store
from tsn_toolkit.verify.measure import measure_in_fresh_process, measure_store
from tsn_toolkit.workshop import workshop_of_store

FIRST = "classes-0-1"


def files_of(folder: Path) -> dict[str, bytes]:
    """Every regular file of a folder by its path."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@dataclass(frozen=True)
class Snapshot:
    """What a store says of its first task: bytes of the part, hash of the integers, logits of a fixed batch."""

    part: bytes
    codes_hash: str
    logits: torch.Tensor


def snapshot(path: Path) -> Snapshot:
    store = Store.open(path)
    shop = workshop_of_store(store)
    model = extract(shop.factory, shop.graph, store.weights(FIRST)).model
    batch = torch.rand(16, *shop.graph.input_shape, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        logits = model(batch)
    return Snapshot((path / store.entries[0].path).read_bytes(), store.codes_hash(FIRST), logits)


@dataclass(frozen=True)
class Grown:
    """A store that was made with one task and grown by two."""

    store: Path
    before: Snapshot
    files_before: dict[str, bytes]
    added: list[dict]


@pytest.fixture(scope="module")
def grown(tsn: Callable[..., Result], tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Grown:
    folder = tmp_path_factory.mktemp("grown") / "run"
    assert tsn("run", tiny_recipe, "--set", "tasks.count=1", "--out", folder).exit_code == 0
    before, files = snapshot(folder / "store"), files_of(folder / "store")
    added = [tsn("add-task", folder / "store", tiny_recipe, "--json") for _ in range(2)]
    assert [done.exit_code for done in added] == [0, 0]
    return Grown(folder / "store", before, files, [json.loads(done.stdout) for done in added])


def test_later_tasks_leave_the_first_as_it_was(grown: Grown) -> None:
    after = snapshot(grown.store)
    assert len(Store.open(grown.store).entries) == 3
    assert after.part == grown.before.part
    assert after.codes_hash == grown.before.codes_hash
    assert torch.equal(after.logits, grown.before.logits)
    assert float(after.logits.std()) > 0
    changed = [name for name, data in grown.files_before.items() if files_of(grown.store)[name] != data]
    assert changed == ["manifest.json"]


def test_a_run_of_three_is_a_run_of_one_and_two_added_tasks(grown: Grown, tiny_run: Path) -> None:
    assert files_of(grown.store) == files_of(tiny_run / "store")


def test_add_task_says_what_it_added(grown: Grown) -> None:
    assert [row["task"] for row in grown.added] == ["classes-2-3", "classes-4-5"]
    sizes = [sum(map(len, files.values())) for files in (grown.files_before, files_of(grown.store))]
    assert sum(row["marginal_bytes"] for row in grown.added) == sizes[1] - sizes[0]
    assert [len(row["measured"]) for row in grown.added] == [2, 3]


def test_the_same_recipe_gives_the_same_bytes(tsn: Callable[..., Result], tiny_recipe: Path, grown: Grown, tmp_path: Path) -> None:
    torch.rand(7)  # a run depends on no random state that it finds
    assert tsn("run", tiny_recipe, "--set", "tasks.count=1", "--set", "name=other", "--out", tmp_path / "again").exit_code == 0
    assert files_of(tmp_path / "again" / "store") == grown.files_before


def test_another_seed_gives_other_bytes(tsn: Callable[..., Result], tiny_recipe: Path, grown: Grown, tmp_path: Path) -> None:
    assert tsn("run", tiny_recipe, "--set", "tasks.count=1", "--seed", 1, "--out", tmp_path / "other").exit_code == 0
    assert files_of(tmp_path / "other" / "store").keys() == grown.files_before.keys()
    assert files_of(tmp_path / "other" / "store") != grown.files_before


def test_accuracy_is_measured_by_a_process_that_has_only_the_store(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    shutil.copytree(tiny_run / "store", tmp_path / "moved")
    rows = measure_in_fresh_process(tmp_path / "moved")["tasks"]
    summary = json.loads((tiny_run / "summary.json").read_text(encoding="utf-8"))
    assert [row["accuracy"] for row in rows] == summary["R"][-1]
    assert [row["name"] for row in rows] == [task["name"] for task in summary["tasks"]]


def test_accuracies_are_those_of_a_slow_count(tiny_run: Path, tiny_recipe: Path) -> None:
    """R against right answers counted one example at a time with the unshrunk integers of the store."""
    recipe = load_recipe(tiny_recipe, strategy_config=strategy_config)
    store = Store.open(tiny_run / "store")
    shop = workshop_of_store(store)
    data = load_task(recipe, 1)
    model = extract(shop.factory, shop.graph, store.weights(data.name)).model
    right = 0
    for x, y in zip(data.test.x, data.test.y, strict=True):
        with torch.no_grad():
            right += int(model(x[None].float() / (255 if x.dtype == torch.uint8 else 1)).argmax()) == int(y)
    summary = json.loads((tiny_run / "summary.json").read_text(encoding="utf-8"))
    assert summary["R"][1][1] == right / len(data.test)
    assert right / len(data.test) > 0.5


def test_nothing_is_forgotten(tiny_run: Path) -> None:
    summary = json.loads((tiny_run / "summary.json").read_text(encoding="utf-8"))
    matrix = summary["R"]
    assert (summary["bwt"], summary["max_forgetting"]) == (0.0, 0.0)
    assert [[value is None for value in row] for row in matrix] == [[False, True, True], [False, False, True], [False, False, False]]
    assert matrix[2][:2] == [matrix[0][0], matrix[1][1]]
    assert summary["acc"] == pytest.approx(float(np.mean(matrix[2])))


def rewrite_with_other_codes(folder: Path, task: str) -> None:
    """Replaces every own code of one layer by the codebook's first entry, through the store's own encoder, with hashes computed anew."""
    store = Store.open(folder)
    weights, entry = store.weights(task), store.entry(task)
    codes = {name: layer.codes for name, layer in store.held(task).items() if layer.codes is not None}
    codes["conv4"] = replace(codes["conv4"], codes=np.zeros_like(codes["conv4"].codes))
    result = TaskResult(
        name=task,
        parent=entry.parent,
        isolation=entry.isolation,
        strategy=entry.strategy,
        classes=weights.classes,
        unit_masks=weights.unit_masks,
        layers=codes,
        norms=weights.norms,
        biases=weights.biases,
        head=weights.head,
        ranges=weights.ranges,
        validation=store.validation(task),
    )
    data = store.encode(result, store.recipe(task))
    manifest, _ = read_manifest(folder)
    entries = [replace(e, sha256=hash_bytes(data), size_bytes=len(data)) if e.name == task else e for e in manifest.entries]
    (folder / entry.path).write_bytes(data)
    (folder / "manifest.json").write_bytes(Manifest(manifest.trunk, tuple(entries)).to_bytes())


def test_other_codes_give_another_accuracy(tiny_run: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_run / "store", tmp_path / "store")
    rewrite_with_other_codes(tmp_path / "store", FIRST)
    before, after = (measure_store(path, [FIRST])["tasks"][0] for path in (tiny_run / "store", tmp_path / "store"))
    assert after["codes_hash"] != before["codes_hash"]
    assert after["accuracy"] < before["accuracy"]


SUMMARY_KEYS = {
    "dense_reference", "tasks", "R", "acc", "bwt", "fwt", "store_bytes", "denominators", "seed", "versions"
}  # fmt: skip


def test_the_summary_holds_every_key(tiny_run: Path) -> None:
    summary = json.loads((tiny_run / "summary.json").read_text(encoding="utf-8"))
    assert set(summary) >= SUMMARY_KEYS
    assert set(summary["denominators"]) == {"dense_fp32", "separate_fp32", "separate_int8", "separate_encoded"}
    assert min(summary["denominators"].values()) > 0
    assert len(summary["tasks"]) == 3
    for task in summary["tasks"]:
        assert set(task) >= {"name", "accuracy", "bytes", "macs", "latency_ms"}
        assert set(task["accuracy"]) == {"dense", "store", "exported"}
        assert set(task["bytes"]) == {"delta", "exported", "dense_fp32"}
        assert 0 < task["macs"]["extracted"] < task["macs"]["dense"]
        file = next((tiny_run / "store" / "tasks").glob(f"*-{task['name']}.safetensors"))
        assert task["bytes"]["delta"] == file.stat().st_size
    assert summary["store_bytes"] == sum(len(data) for data in files_of(tiny_run / "store").values())
    assert {"python", "torch", "numpy"} <= set(summary["versions"])


def test_the_run_folder_holds_what_is_promised(tiny_run: Path) -> None:
    names = {path.name for path in tiny_run.iterdir()}
    assert names >= {"recipe.resolved.yaml", "plan.yaml", "store", "summary.json", "report.html", "log.txt"}
    assert "task 3/3 `classes-4-5`: learning" in (tiny_run / "log.txt").read_text(encoding="utf-8")


def test_a_store_keeps_no_path_of_a_machine(tiny_recipe: Path) -> None:
    overrides = ["data={source: npz, path: /home/me/d.npz}", "model.checkpoint=~/w.pth", "plan.file=/home/me/plan.yaml"]
    recipe = load_recipe(tiny_recipe, overrides=overrides, strategy_config=strategy_config)
    kept = stored_recipe(recipe, 1)
    assert kept["data"]["path"] == "${TSN_DATA_PATH}"
    assert kept["model"]["checkpoint"] == "${TSN_CHECKPOINT_PATH}"
    assert "/home/me" not in json.dumps(kept) and "~" not in json.dumps(kept)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of 8x8 images that differ in brightness."""
    rng = np.random.default_rng(0)
    y = np.arange(120) % 2
    x = (rng.integers(0, 60, (120, 1, 8, 8)) + 150 * y[:, None, None, None]).astype(np.uint8)
    path = tmp_path_factory.mktemp("data") / "two.npz"
    np.savez(path, x=x, y=y, is_test=np.arange(120) >= 90)
    return path


def test_a_run_with_an_absolute_data_path(
    tsn: Callable[..., Result], tiny_recipe: Path, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It runs, the store names a variable, and re-measuring needs that variable or says so."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("TSN_DATA_PATH", str(archive))
    data = f"data={{source: npz, path: {archive}}}"
    assert tsn("run", tiny_recipe, "--set", data, "--set", "tasks={}", "--out", tmp_path / "run").exit_code == 0
    assert not [name for name, content in files_of(tmp_path / "run" / "store").items() if str(archive.parent).encode() in content]
    monkeypatch.delenv("TSN_DATA_PATH")
    refused = tsn("verify", tmp_path / "run" / "store", "--measure")
    assert refused.exit_code == 1
    assert "environment variable TSN_DATA_PATH is not set" in refused.stderr
    rows = measure_in_fresh_process(tmp_path / "run" / "store", data_paths={"TSN_DATA_PATH": str(archive)})["tasks"]
    assert rows[0]["samples"] == 30


def test_hashes_of_the_manifest_are_those_of_the_files(tiny_run: Path) -> None:
    manifest, _ = read_manifest(tiny_run / "store")
    for entry in (manifest.trunk, *manifest.entries):
        assert hashlib.sha256((tiny_run / "store" / entry.path).read_bytes()).hexdigest() == entry.sha256


def test_a_run_from_a_checkpoint(tsn: Callable[..., Result], tiny_recipe: Path, tmp_path: Path) -> None:
    """The trunk holds the trained codes, every task starts from it, and the store names no path of this machine."""
    torch.manual_seed(0)
    torch.save(small_cnn(width=8).state_dict(), tmp_path / "trained.pth")
    settings = ("--set", f"model.checkpoint={tmp_path / 'trained.pth'}", "--set", "tasks.count=2", "--set", "parent=auto")
    assert tsn("run", tiny_recipe, *settings, "--out", tmp_path / "run").exit_code == 0
    store = Store.open(tmp_path / "run" / "store")
    assert store.trunk().kind == "checkpoint"
    assert [entry.parent for entry in store.entries] == ["trunk", "trunk"]
    assert store.recipe("trunk")["model"]["checkpoint"] == "${TSN_CHECKPOINT_PATH}"
    assert tsn("verify", tmp_path / "run" / "store", "--measure").exit_code == 0


def test_a_plan_under_a_budget_is_measured_written_and_run(tsn: Callable[..., Result], tiny_recipe: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "trained.pth"
    torch.manual_seed(0)
    torch.save(small_cnn(width=8).state_dict(), checkpoint)
    budget = "plan.budget={size_bytes: 16000, densities: [1.0, 0.5, 0.25], bit_widths: [8, 3], examples: 40}"
    settings = ("--set", f"model.checkpoint={checkpoint}", "--set", "trunk.kind=seed", "--set", budget)
    settings += ("--set", "plan.units_keep=1.0", "--set", "tasks.count=1")
    file = tmp_path / "plan.yaml"
    assert tsn("plan", tiny_recipe, *settings, "--out", file).exit_code == 0
    content = parse_yaml(file.read_text(encoding="utf-8")).data
    assert "size_bytes" in str(content["measured"]) and {layer["bit_width"] for layer in content["layers"].values()} <= {8, 3}
    done = tsn("run", tiny_recipe, *settings, "--out", tmp_path / "run")
    assert done.exit_code == 0, done.stderr
    assert (tmp_path / "run" / "plan.yaml").read_text(encoding="utf-8") == file.read_text(encoding="utf-8")
    store = Store.open(tmp_path / "run" / "store")
    widths = {name: layer.codes.bit_width for name, layer in store.held("classes-0-1").items() if layer.codes is not None}
    assert widths == {name: content["layers"][name]["bit_width"] for name in widths}
    refused = tsn("plan", tiny_recipe, *settings, "--set", "trunk.kind=checkpoint")
    assert refused.exit_code == 1 and "what owning them is worth shows only after training" in refused.stderr


def test_a_budget_over_a_trained_trunk_chooses_units(tsn: Callable[..., Result], tiny_recipe: Path, tmp_path: Path) -> None:
    """What reads the removed units becomes the task's own, all else is shared, and the extracted model has the multiply-accumulates of the plan."""
    checkpoint = tmp_path / "trained.pth"
    torch.manual_seed(0)
    torch.save(small_cnn(width=8).state_dict(), checkpoint)
    settings = ("--set", f"model.checkpoint={checkpoint}", "--set", "trunk.kind=checkpoint", "--set", "tasks.count=1")
    settings += ("--set", "plan.budget={macs_kept: 0.7, units: [0.75, 0.5], examples: 40}", "--set", "plan.units_keep=1.0")
    done = tsn("run", tiny_recipe, *settings, "--out", tmp_path / "run")
    assert done.exit_code == 0, done.stderr
    content = parse_yaml((tmp_path / "run" / "plan.yaml").read_text(encoding="utf-8")).data
    own = {name for name, layer in content["layers"].items() if layer["encoding"] == "codes"}
    assert own and own <= set(content["measured"]["own"]) and {layer["encoding"] for layer in content["layers"].values()} == {"codes", "shared"}
    task = json.loads((tmp_path / "run" / "summary.json").read_text(encoding="utf-8"))["tasks"][0]
    macs = task["macs"]
    assert macs["extracted"] <= 0.7 * macs["dense"]
    part = inspect_store(Store.open(tmp_path / "run" / "store"))["parts"][-1]
    stored = part["bytes"] - part["breakdown"]["metadata"]
    assert stored == pytest.approx(content["measured"]["predicted"]["size_bytes"], rel=0.35)
