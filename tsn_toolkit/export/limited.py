"""A program that is run with a limit of time and leaves no process behind."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path


def run_limited(command: Sequence[str], folder: Path | str, *, seconds: float) -> subprocess.CompletedProcess[str]:
    """Run a command in `folder`; whatever it started is stopped with it, also where this process is told to end meanwhile.

    Raises:
        TimeoutError: it took longer than `seconds`.
    """
    none, pipe = subprocess.DEVNULL, subprocess.PIPE
    with subprocess.Popen(command, cwd=folder, stdin=none, stdout=pipe, stderr=pipe, text=True, start_new_session=True) as process:
        try:
            out, error = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            raise TimeoutError from None
        finally:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
    return subprocess.CompletedProcess(command, process.returncode, out, error)
