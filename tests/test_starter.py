"""`tsn init`: two files that run as they are, from any folder."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from tsn_toolkit.errors import RunError
from tsn_toolkit.starter import write_starter

SMALL = ("training.epochs=1", "tasks.count=1", "data.train_limit=240", "data.test_limit=100", "targets=[]", "reference.dense=none")


def test_files_that_exist_are_left(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text("mine", encoding="utf-8")
    with pytest.raises(RunError, match="model.py exists already and is left as it is"):
        write_starter(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["model.py"]
    assert (tmp_path / "model.py").read_text(encoding="utf-8") == "mine"


def test_the_starter_runs_from_another_folder(fresh_tsn: Callable, tsn: Callable[..., Result], tmp_path: Path) -> None:
    """The whole way of a newcomer, in processes of its own: init, run, one JSON object on stdout, no machine's path in the store."""
    assert tsn("init", tmp_path / "mine").exit_code == 0
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    settings = [word for setting in SMALL for word in ("--set", setting)]
    done = fresh_tsn("run", "../mine/recipe.yaml", *settings, "--out", "out", "--json", cwd=elsewhere)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    summary = json.loads(done.stdout)
    assert summary == json.loads((elsewhere / "out" / "summary.json").read_text(encoding="utf-8"))
    assert summary["name"] == "starter"
    for file in (elsewhere / "out" / "store").rglob("*.safetensors"):
        assert str(tmp_path).encode() not in file.read_bytes()
