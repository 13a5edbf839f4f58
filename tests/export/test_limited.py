"""Children end within their time, and take what they started with them."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tsn_toolkit.errors import ExportError, GateError
from tsn_toolkit.export import child
from tsn_toolkit.export.c import compile as c_compile
from tsn_toolkit.export.limited import run_limited

PARENT = """
import pathlib, subprocess, sys, time
below = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
pathlib.Path("pid").write_text(str(below.pid))
time.sleep(float(sys.argv[1]) if len(sys.argv) > 1 and sys.argv[1].isdigit() else 100)
"""


def lives(pid: str) -> bool:
    """Whether a process still runs; one that has ended but was not waited for does not."""
    status = Path(f"/proc/{pid}/status")
    return status.exists() and "State:\tZ" not in status.read_text()


def wait_until_ended(pid: str) -> None:
    deadline = time.monotonic() + 20
    while lives(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not lives(pid)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="processes are looked up in /proc")
@pytest.mark.parametrize(("sleeps", "limit"), [("100", 3), ("0", 60)])
def test_nothing_is_left_running(tmp_path: Path, sleeps: str, limit: int) -> None:
    command = [sys.executable, "-c", PARENT, sleeps]
    if sleeps == "100":
        with pytest.raises(TimeoutError):
            run_limited(command, tmp_path, seconds=limit)
    else:
        silent = [sys.executable, "-c", PARENT.replace('100)"])', '100)"], stdout=-3, stderr=-3)'), sleeps]
        assert run_limited(silent, tmp_path, seconds=limit).returncode == 0
    wait_until_ended((tmp_path / "pid").read_text())


def test_words_and_exit_code_come_back(tmp_path: Path) -> None:
    done = run_limited([sys.executable, "-c", "import sys; print('out'); sys.exit('last words')"], tmp_path, seconds=60)
    assert isinstance(done, subprocess.CompletedProcess)
    assert (done.returncode, done.stdout, done.stderr) == (1, "out\n", "last words\n")


def test_a_runtime_that_hangs_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "run_sleepy.py"
    script.write_text(PARENT)
    (tmp_path / "work").mkdir()
    monkeypatch.setattr(child, "TIME_LIMIT_S", 2)
    with pytest.raises(GateError, match="`m.onnx` does not run in sleepy within 2 s on 3 inputs: the process was stopped. Give it fewer inputs"):
        child._run_script(script, str(tmp_path / "work"), tmp_path / "y.npz", np.zeros((3, 1), np.float32), {"model": "m.onnx"})
    wait_until_ended((tmp_path / "work" / "pid").read_text())


def test_the_limit_counts_beside_what_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "run_quick.py"
    script.write_text("import json, sys, time\ntime.sleep(1.5)\nopen(json.load(open(sys.argv[1]))['outputs'], 'w').close()\n")
    (tmp_path / "work").mkdir()
    monkeypatch.setattr(child, "TIME_LIMIT_S", 0)
    child._run_script(script, str(tmp_path / "work"), tmp_path / "y", np.zeros((3, 1), np.float32), {"model": "m.onnx", "seconds": 30})
    assert (tmp_path / "y").exists()


def test_a_compiler_that_hangs_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(c_compile, "TIME_LIMIT_S", 1)
    with pytest.raises(ExportError, match="`sleep 50` does not end within 1 s and was stopped. Try the compiler and the emulator by hand"):
        c_compile._run(["sleep", "50"], tmp_path)
