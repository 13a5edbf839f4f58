"""A retired task is gone; every other byte of the store is as it was, and its bits are free."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import store_samples as samples

from tsn_toolkit.errors import StoreError
from tsn_toolkit.store import retire as retire_module
from tsn_toolkit.store.folder import MANIFEST, writer_lock
from tsn_toolkit.store.manifest import Manifest, PartEntry, TaskEntry, read_manifest
from tsn_toolkit.store.retire import retire_task
from tsn_toolkit.store.store import Store


@pytest.fixture
def store(tmp_path):
    """trunk -> a -> b, trunk -> c, trunk -> d."""
    graph = samples.make_graph()
    store = Store.create(tmp_path / "store", trunk=samples.make_trunk(graph), graph=graph, recipe=samples.RECIPE)
    for seed, (name, parent) in enumerate([("a", "trunk"), ("b", "a"), ("c", "trunk"), ("d", "trunk")]):
        store.commit(samples.make_task(store, name, parent, seed=seed), {})
    return store


def files(store):
    return {path.relative_to(store.path).as_posix(): path.read_bytes() for path in store.path.rglob("*") if path.is_file()}


def test_only_the_part_and_the_manifest_change(store):
    before, hashes = files(store), {name: store.codes_hash(name) for name in "abd"}
    retired = retire_task(store.path, "c")
    assert (retired.path, retired.index) == ("tasks/002-c.safetensors", 2)
    after = files(store)
    assert set(before) - set(after) == {retired.path}
    assert {name for name in after if after[name] != before[name]} == {MANIFEST}
    opened = Store.open(store.path)
    assert [(entry.name, entry.index) for entry in opened.entries] == [("a", 0), ("b", 1), ("d", 3)]
    assert {name: opened.codes_hash(name) for name in "abd"} == hashes
    with pytest.raises(StoreError, match="no task `c`"):
        opened.weights("c")


def test_what_cannot_be_retired_is_named_and_nothing_changes(store):
    before = files(store)
    for task, message in (
        ("a", r"`a` cannot be retired.*children \['b'\]"),
        ("trunk", "the trunk cannot be retired"),
        ("x", r"no task `x`; the store holds \['a', 'b', 'c', 'd'\]"),
    ):
        with pytest.raises(StoreError, match=message):
            retire_task(store.path, task)
    with writer_lock(store.path), pytest.raises(StoreError, match="another process is writing"):
        retire_task(store.path, "c")
    assert files(store) == before
    retire_task(store.path, "b")
    retire_task(store.path, "a")
    assert [entry.name for entry in Store.open(store.path).entries] == ["c", "d"]


def test_the_next_number_is_above_every_living_one(store):
    retire_task(store.path, "c")
    opened = Store.open(store.path)
    assert opened.commit(samples.make_task(opened, "c", seed=9), {}).path == "tasks/004-c.safetensors"
    for name in ("c", "d"):
        retire_task(store.path, name)
    opened = Store.open(store.path)
    assert opened.commit(samples.make_task(opened, "e", seed=9), {}).path == "tasks/002-e.safetensors"
    assert sorted(Store.open(store.path).weights("e").q) == ["conv1", "conv2", "fc"]


def test_a_store_that_was_open_meanwhile_does_not_write_over_it(store):
    retire_task(store.path, "d")
    with pytest.raises(StoreError, match="another process changed this store since it was opened"):
        store.commit(samples.make_task(store, "e", seed=9), {})


def test_its_bits_are_free_again(tmp_path):
    graph = samples.make_graph()
    trunk = replace(samples.make_trunk(graph), word_bits=12)
    store = Store.create(tmp_path / "store", trunk=trunk, graph=graph, recipe={})

    def full(name):
        result = samples.make_task(store, name, masked=False)
        rng = np.random.default_rng(0)
        return replace(result, layers={n: samples.own_layer(rng, np.full(c.states.shape, samples.OWN), 4) for n, c in result.layers.items()})

    store.commit(full("a"), {})
    store.commit(full("b"), {})
    with pytest.raises(StoreError, match="asks for 4 bits at a slot that has 0 of its 12 left"):
        store.commit(full("c"), {})
    retire_task(store.path, "a")
    Store.open(store.path).commit(full("c"), {})
    assert [entry.name for entry in Store.open(store.path).entries] == ["b", "c"]


def test_a_damaged_task_can_be_retired(store):
    part = store.path / "tasks" / "003-d.safetensors"
    part.write_bytes(part.read_bytes()[:-5])
    with pytest.raises(StoreError, match="003-d"):
        Store.open(store.path)
    retire_task(store.path, "d")
    assert Store.open(store.path).weights("c").name == "c"


@pytest.mark.parametrize("step", ["before the manifest", "after the manifest"])
def test_an_interrupted_retirement_leaves_a_store_that_opens(store, monkeypatch, step):
    write = retire_module.write_atomic

    def interrupted(path, data):
        if step == "after the manifest":
            write(path, data)
        raise KeyboardInterrupt

    monkeypatch.setattr(retire_module, "write_atomic", interrupted)
    with pytest.raises(KeyboardInterrupt):
        retire_task(store.path, "c")
    monkeypatch.undo()
    assert (store.path / "tasks" / "002-c.safetensors").exists()
    opened = Store.open(store.path)
    assert [entry.name for entry in opened.entries] == (["a", "b", "c", "d"] if step == "before the manifest" else ["a", "b", "d"])
    opened.commit(samples.make_task(opened, "e", seed=9), {})
    assert (store.path / "tasks" / "002-c.safetensors").exists() == (step == "before the manifest")
    assert Store.open(store.path).codes_hash("e")


def test_orphans_are_only_what_looks_like_a_part(store):
    (store.path / "tasks" / "notes.txt").write_text("mine")
    (store.path / "tasks" / "007-lost.safetensors").write_bytes(b"half")
    retire_task(store.path, "c")
    assert sorted(path.name for path in (store.path / "tasks").iterdir()) == [
        "000-a.safetensors",
        "001-b.safetensors",
        "003-d.safetensors",
        "notes.txt",
    ]


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["tasks/001-a.safetensors", "tasks/000-b.safetensors"], "number of `tasks/000-b.safetensors` does not ascend"),
        (["tasks/000-a.safetensors", "tasks/000-b.safetensors"], "does not ascend"),
        (["tasks/0000-a.safetensors"], "a part's path must be `tasks/000-a.safetensors`"),
        (["tasks/000-b.safetensors"], "a part's path must be `tasks/000-a.safetensors`"),
        (["../000-a.safetensors"], "a part's path must be"),
    ],
)
def test_manifest_numbers(tmp_path, paths, message):
    entries = tuple(TaskEntry("ab"[i], "trunk", "exact", "s", path, "0" * 64, 1, i) for i, path in enumerate(paths))
    (tmp_path / MANIFEST).write_bytes(Manifest(PartEntry("trunk.safetensors", "0" * 64, 1), entries).to_bytes())
    with pytest.raises(StoreError, match=message):
        read_manifest(tmp_path)


def test_the_command(tsn, store):
    before = sum(len(data) for data in files(store).values())
    done = tsn("retire", store.path, "c", "--json")
    assert done.exit_code == 0, done.stderr
    total = sum(len(data) for data in files(store).values())
    size = before - total
    assert size > store.entry("c").size_bytes
    assert json.loads(done.stdout) == {"task": "c", "freed_bytes": size, "total_bytes": total, "run": None}
    refused = tsn("retire", store.path, "a")
    assert refused.exit_code == 1 and "children ['b']" in refused.stderr
    assert "retired `b`" in tsn("retire", store.path, "b").stdout


def test_the_run_is_named_where_it_measured_the_task(tsn, store, tmp_path):
    run = tmp_path / "a_run"
    shutil.copytree(store.path, run / "store")
    (run / "recipe.resolved.yaml").write_text("name: r", encoding="utf-8")
    (run / "records").mkdir()
    (run / "records" / "b.json").write_text("{}", encoding="utf-8")
    added = tsn("retire", run / "store", "c")
    assert "freed" in added.stdout and added.stderr == ""
    assert f"packages stay in {run}" in tsn("retire", run / "store", "b").stderr


@pytest.mark.slow
def test_report_and_resume_of_a_run_leave_a_retired_task_out(tsn, tiny_recipe, tmp_path):
    run = tmp_path / "run"
    assert tsn("run", tiny_recipe, "--out", run, "--set", "parent=trunk").exit_code == 0
    before = json.loads((run / "summary.json").read_text())
    done = tsn("retire", run / "store", "classes-2-3")
    assert f"`tsn report {run}` leaves the task out" in done.stderr
    assert tsn("report", run).exit_code == 0
    after = json.loads((run / "summary.json").read_text())
    assert [task["name"] for task in after["tasks"]] == ["classes-0-1", "classes-4-5"]
    assert after["tasks"] == [before["tasks"][0], before["tasks"][2]]
    assert after["R"] == [[before["R"][0][0], None], [before["R"][2][0], before["R"][2][2]]]
    assert after["store_bytes"] < before["store_bytes"] and after["denominators"]["separate_fp32"] < before["denominators"]["separate_fp32"]
    assert (run / "records" / "classes-2-3.json").is_file()
    again = tsn("resume", run, "--json")
    assert again.exit_code == 0, again.stderr
    assert "`classes-2-3` was retired and stays so" in again.stderr
    assert json.loads(again.stdout) == after
    # A task that is measured after the retirement has no accuracy of the retired one.
    (run / "records" / "classes-4-5.json").unlink()
    assert json.loads(tsn("resume", run, "--json").stdout)["R"] == after["R"]
    shutil.rmtree(run)
