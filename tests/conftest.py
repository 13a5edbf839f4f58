"""Fixtures that several test folders share."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

ROOT = Path(__file__).resolve().parents[1]

TINY_RECIPE = """\
schema: 1
name: tiny
model:
  factory: tsn_toolkit.models.small_cnn:small_cnn(width=8)
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
  dense: none
parent: previous
targets: []
bench:
  seconds: 0.02
"""


@pytest.fixture(scope="session")
def tsn_data() -> Path:
    """The folder with the unpacked datasets and checkpoints; skips where there is none."""
    value = os.environ.get("TSN_DATA", "")
    if not value:
        pytest.skip("TSN_DATA is not set: it names the folder with the datasets and checkpoints")
    folder = Path(value)
    if not folder.is_dir():
        pytest.skip(f"TSN_DATA names {value}, which is not a folder")
    return folder


@pytest.fixture(scope="session")
def tiny_recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe of three tasks that a slow core runs in seconds; no reference, no target."""
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(TINY_RECIPE, encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def tsn() -> Iterator[Callable[..., Result]]:
    """Runs `tsn ARGUMENTS` in this process on one thread; a run's own measuring, which has tests of its own, stays in this process too."""
    from tsn_toolkit.command_line import main, terminal
    from tsn_toolkit.verify.measure import measure_store

    hooks_of_a_command = terminal.hooks

    def run(*arguments: object) -> Result:
        return CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        here = {"measure": lambda path, *, data_paths=None: measure_store(path)}
        patch.setattr(terminal, "hooks", lambda: replace(hooks_of_a_command(), **here))
        yield run
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def fresh_tsn() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs `tsn ARGUMENTS` in a process and a folder of its own."""

    def run(*arguments: object, cwd: Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "tsn_toolkit", *map(str, arguments)]
        return subprocess.run(command, cwd=cwd, env=child_environment() | (env or {}), capture_output=True, text=True, timeout=250, check=False)

    return run


@pytest.fixture(scope="session")
def tiny_run(tsn: Callable[..., Result], tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished run of the tiny recipe; nobody writes into it."""
    folder = tmp_path_factory.mktemp("tiny") / "run"
    done = tsn("run", tiny_recipe, "--out", folder, "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["name"] == "tiny"
    return folder


def child_environment() -> dict[str, str]:
    """The environment of a child that finds the package of this checkout and uses one thread."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
