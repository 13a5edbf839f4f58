"""A run that is killed and resumed equals one that was not: byte for byte in the store, number for number in the summary."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from tsn_toolkit.store.store import Store

ROOT = Path(__file__).resolve().parents[1]

# A run whose measuring stays in its own process, so that a kill ends all of it.
PROGRAM = """
import sys
from dataclasses import replace
from tsn_toolkit import command_line
from tsn_toolkit.command_line import terminal
from tsn_toolkit.verify.measure import measure_store
hooks = terminal.hooks
terminal.hooks = lambda: replace(hooks(), measure=lambda path, *, data_paths=None: measure_store(path))
command_line.main(sys.argv[1:])
"""


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def start(recipe: Path, out: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PROGRAM, "run", str(recipe), "--out", str(out)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)


def kill_when(process: subprocess.Popen[bytes], ready: Callable[[], bool], delay: float) -> None:
    """Ends the process with SIGKILL `delay` seconds after `ready`; fails when it ends by itself before."""
    deadline = time.monotonic() + 500
    while not ready():
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    assert process.wait(timeout=30) == -signal.SIGKILL


def says(out: Path, text: str) -> Callable[[], bool]:
    return lambda: (out / "log.txt").exists() and text in (out / "log.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("line", "longest_wait", "committed"),
    [
        pytest.param("task 2/3 `classes-2-3`: learning", 0.1, {1, 2}, id="inside a task"),
        pytest.param("measuring all 1 tasks", 0.0, {1}, id="between two tasks"),
        pytest.param("graph:", 0.05, {0}, id="before the first task", marks=pytest.mark.slow),
        pytest.param("task 1/3", 3.0, {0, 1, 2, 3}, id="anywhere", marks=pytest.mark.slow),
    ],
)
def test_a_killed_run_resumes_to_the_same_bytes(
    tsn: Callable[..., Result], tiny_recipe: Path, tiny_run: Path, tmp_path: Path, line: str, longest_wait: float, committed: set[int]
) -> None:
    out = tmp_path / "run"
    wait = random.Random().uniform(0, longest_wait)
    kill_when(start(tiny_recipe, out), says(out, line), wait)
    manifest = out / "store" / "manifest.json"
    assert (len(Store.open(out / "store").entries) if manifest.exists() else 0) in committed, f"killed after {wait:.3f} s"
    done = tsn("resume", out, "--json")
    assert done.exit_code == 0, done.stderr
    assert files_of(out / "store") == files_of(tiny_run / "store"), f"killed after {wait:.3f} s"
    expected = json.loads((tiny_run / "summary.json").read_text(encoding="utf-8"))
    assert json.loads(done.stdout) == expected


def test_resuming_a_finished_run_learns_nothing_and_changes_no_byte_of_the_store(tsn: Callable[..., Result], tiny_run: Path) -> None:
    before = files_of(tiny_run / "store")
    done = tsn("resume", tiny_run, "--json")
    assert done.exit_code == 0
    assert "learning" not in done.stderr
    assert files_of(tiny_run / "store") == before


def test_a_folder_without_a_run_cannot_be_resumed(tsn: Callable[..., Result], tmp_path: Path) -> None:
    done = tsn("resume", tmp_path / "nothing")
    assert done.exit_code == 1
    assert "nothing holds no run" in done.stderr
