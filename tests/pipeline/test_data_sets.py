"""Several data sets as tasks of one store, the whole way: paths that stores do not keep, and the same bytes however a run is cut."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result

from tsn_toolkit.store.store import Store
from tsn_toolkit.verify.measure import measure_in_fresh_process

RECIPE = """\
schema: 1
name: sets
model: {{factory: "tsn_toolkit.models.mlp:mlp(widths=(16, 8))"}}
data: {{source: npz, path: {folder}/first.npz, input_shape: [1, 4, 4], validation: 0.2}}
tasks:
  split: datasets
  datasets:
    - {{name: first}}
    - {{name: second, path: {folder}/second.npz}}
training: {{epochs: 1}}
reference: {{dense: none}}
targets: []
"""


def archive(path: Path, seed: int, size: int) -> None:
    """Two classes, bright and dark."""
    random, y = np.random.default_rng(seed), np.arange(60) % 2
    x = (random.random((60, 1, size, size)) * 100 + 100 * y[:, None, None, None]).astype(np.uint8)
    np.savez(path, x=x, y=y, is_test=np.arange(60) >= 40)


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_data_sets_as_tasks(tsn: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive(tmp_path / "first.npz", 0, 4)
    archive(tmp_path / "second.npz", 1, 6)
    recipe = tmp_path / "sets.yaml"
    recipe.write_text(RECIPE.format(folder=tmp_path), encoding="utf-8")
    paths = {"TSN_DATA_PATH": str(tmp_path / "first.npz"), "TSN_DATA_PATH_1": str(tmp_path / "second.npz")}
    for name, value in paths.items():
        monkeypatch.setenv(name, value)
    assert tsn("run", recipe, "--out", tmp_path / "whole").exit_code == 0
    assert tsn("run", recipe, "--set", "tasks.count=1", "--out", tmp_path / "cut").exit_code == 0
    assert tsn("add-task", tmp_path / "cut" / "store", recipe).exit_code == 0
    assert files_of(tmp_path / "cut" / "store") == files_of(tmp_path / "whole" / "store")

    store = Store.open(tmp_path / "whole" / "store")
    assert [store.weights(name).classes for name in ("first", "second")] == [(0, 1), (10_000, 10_001)]
    assert all(str(tmp_path).encode() not in data for data in files_of(store.path).values())

    for name in paths:
        monkeypatch.delenv(name)
    rows = measure_in_fresh_process(store.path, data_paths=paths)["tasks"]
    summary = json.loads((tmp_path / "whole" / "summary.json").read_text(encoding="utf-8"))
    assert [row["accuracy"] for row in rows] == summary["R"][1]
    assert rows[0]["samples"] == 20
