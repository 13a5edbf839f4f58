"""Start a runtime's runner in a child process and read back what it wrote.

A runner is a file `run_<runtime>.py` beside this one; it imports the runtime, numpy, the loops of `runner.py` and perhaps another runner, and nothing
else of the toolkit, so that what it measures is what a user of the package gets. Where the runtime's makers have a quantizer of their own,
`quantize_<runtime>.py` runs it in the same way. Requests and data travel as files in a temporary folder.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tsn_toolkit.errors import GateError, TargetError
from tsn_toolkit.export.limited import run_limited
from tsn_toolkit.registry import did_you_mean

TIME_LIMIT_S = 4 * 3600
"""For one child beside the seconds that it is asked to measure: many times what the largest test split takes on a slow core."""

_FOLDER = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Answers:
    """What a runtime gave for all inputs.

    Attributes:
        y: outputs (n, ...).
        emulated_samples: how many of the inputs also ran in the target's emulator, with the same bytes; None for a runtime without one.
        left_out: why none did, or "".
    """

    y: NDArray[np.float32]
    emulated_samples: int | None = None
    left_out: str = ""


def known_runtimes() -> tuple[str, ...]:
    """Runtimes that have a runner, sorted."""
    return tuple(sorted(path.stem.removeprefix("run_") for path in _FOLDER.glob("run_*.py")))


def infer(
    model: Path, x: NDArray[np.float32], *, runtime: str, options: Mapping[str, str], threads: int = 1, batch_size: int = 50
) -> NDArray[np.float32]:
    """Outputs (n, ...) of `model` for inputs x (n, ...); see `answers`."""
    return answers(model, x, runtime=runtime, options=options, threads=threads, batch_size=batch_size).y


def answers(model: Path, x: NDArray[np.float32], *, runtime: str, options: Mapping[str, str], threads: int = 1, batch_size: int = 50) -> Answers:
    """What `model` gives for inputs x (n, ...), computed by the runtime in another process.

    Raises:
        TargetError: no runner for the runtime.
        GateError: the process failed, its last words are in the message; or it does not end.
    """
    with tempfile.TemporaryDirectory(prefix="tsn-") as folder:
        outputs = Path(folder) / "outputs.npz"
        request = {"task": "infer", "model": str(model.resolve()), "options": dict(options), "threads": threads, "batch_size": batch_size}
        _run(runtime, folder, outputs, x, request)
        with np.load(outputs) as arrays:
            if "emulated_samples" in arrays:
                return Answers(arrays["y"], int(arrays["emulated_samples"]), str(arrays["left_out"]))
            return Answers(arrays["y"])


def profile(model: Path, x: NDArray[np.float32], *, runtime: str, options: Mapping[str, str], threads: int = 1) -> list[dict[str, Any]]:
    """The runtime's own node events for one run of all inputs x (n, ...).

    Raises:
        TargetError: no runner for the runtime.
        GateError: the process failed.
    """
    with tempfile.TemporaryDirectory(prefix="tsn-") as folder:
        outputs = Path(folder) / "profile.json"
        request = {"task": "profile", "model": str(model.resolve()), "options": dict(options), "threads": threads, "batch_size": len(x)}
        _run(runtime, folder, outputs, x, request)
        return json.loads(outputs.read_text(encoding="utf-8"))


def latencies_ms(
    model: Path, x: NDArray[np.float32], *, runtime: str, options: Mapping[str, str], threads: int, seconds: float, warmup_seconds: float
) -> list[float]:
    """Milliseconds of each call on the batch x (n, ...), for about `seconds` after a warm-up.

    Raises:
        TargetError: no runner for the runtime.
        GateError: the process failed.
    """
    request = {"task": "time", "model": str(model.resolve()), "options": dict(options), "threads": threads, "batch_size": len(x)}
    with tempfile.TemporaryDirectory(prefix="tsn-") as folder:
        outputs = Path(folder) / "times.json"
        _run(runtime, folder, outputs, x, {**request, "seconds": seconds, "warmup_seconds": warmup_seconds})
        return json.loads(outputs.read_text(encoding="utf-8"))["milliseconds"]


def quantize(model: Path, x: NDArray[np.float32], outputs: Path, *, runtime: str, seven_bit_weights: bool) -> None:
    """Have the runtime's own tool quantize a dense float32 model to int8.

    Args:
        model: what the tool reads.
        x: calibration inputs (n, ...).
        outputs: file to write.
        runtime: that has a `quantize_<runtime>.py`.
        seven_bit_weights: whether weights take half the range, for processors on which the whole range would saturate.

    Raises:
        GateError: the process failed; its last words are in the message.
    """
    with tempfile.TemporaryDirectory(prefix="tsn-") as folder:
        request = {"model": str(model.resolve()), "seven_bit_weights": seven_bit_weights}
        _run_script(_FOLDER / f"quantize_{runtime}.py", folder, outputs.resolve(), x, request)


def _run(runtime: str, folder: str, outputs: Path, x: NDArray[np.float32], request: dict[str, Any]) -> None:
    script = _FOLDER / f"run_{runtime}.py"
    if not script.is_file():
        known = known_runtimes()
        raise TargetError(f"Runtime {runtime!r} has no runner{did_you_mean(runtime, known)}; known: {', '.join(known)}.")
    _run_script(script, folder, outputs, x, request)


def _run_script(script: Path, folder: str, outputs: Path, x: NDArray[np.float32], request: dict[str, Any]) -> None:
    inputs, file = Path(folder) / "inputs.npz", Path(folder) / "request.json"
    np.savez(inputs, x=np.ascontiguousarray(x, dtype=np.float32))
    file.write_text(json.dumps({**request, "inputs": str(inputs), "outputs": str(outputs)}), encoding="utf-8")
    for program in {script, _FOLDER / "runner.py", *_FOLDER.glob("run_*.py")}:
        shutil.copy(program, folder)  # beside the toolkit's own files, `import onnxruntime` would find the exporter
    action = "run in" if script.stem.startswith("run_") else "pass through the quantizer of"
    runtime, limit = script.stem.partition("_")[2], TIME_LIMIT_S + 2 * request.get("seconds", 0)
    try:
        done = run_limited([sys.executable, str(Path(folder) / script.name), str(file)], Path(folder), seconds=limit)
    except TimeoutError as error:
        what = f"`{request['model']}` does not {action} {runtime} within {limit:,.0f} s on {len(x)} inputs"
        raise GateError(f"{what}: the process was stopped. Give it fewer inputs or a faster machine, or export the task again.") from error
    if done.returncode != 0 or not outputs.is_file():
        last = (done.stderr or done.stdout).strip().splitlines()[-3:]
        raise GateError(f"`{request['model']}` does not {action} {runtime} (exit code {done.returncode}): {' '.join(last) or 'no output'}")
