"""What it costs to serve several tasks from one process: python benchmarks/task_switching.py PACKAGE PACKAGE ... [--out FILE].

Packages of one run for ONNX Runtime, for example RUN/packages/*/cpu_onnxruntime. Measured in a fresh process with nothing but numpy and
onnxruntime, one thread: the time to load a package, the memory that the process grows by with each, and a call at batch 1 that goes to the same task
as the call before or to another one. Prints a table and writes it as JSON (default: benchmarks/results/task_switching.json).
"""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import click
import numpy as np
from harness.provenance import processor

from tsn_toolkit.export.manifest import read_manifest
from tsn_toolkit.export.runtime import load_runtime
from tsn_toolkit.pipeline.summary import versions

RESULT = Path(__file__).parent / "results" / "task_switching.json"
CALLS = 200

SERVER = textwrap.dedent("""
    import json, sys, time
    import numpy as np
    import onnxruntime

    request = json.loads(sys.argv[1])

    def resident_bytes():
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmRSS"))

    def load(path):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        for entry, value in request["options"].items():
            options.add_session_config_entry(entry, value)
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    x = np.zeros(request["shape"], np.float32)
    feed = {request["input"]: x}
    sessions, load_ms, memory = [], [], [resident_bytes()]
    for path in request["models"]:
        start = time.perf_counter()
        sessions.append(load(path))
        load_ms.append(1e3 * (time.perf_counter() - start))
        sessions[-1].run(None, feed)
        memory.append(resident_bytes())

    def calls(order):
        times = []
        for index in order:
            start = time.perf_counter()
            sessions[index].run(None, feed)
            times.append(1e3 * (time.perf_counter() - start))
        return times

    count = len(sessions)
    same = [index // request["calls"] for index in range(count * request["calls"])]
    other = [index % count for index in range(count * request["calls"])]
    calls(other)
    print(json.dumps({"load_ms": load_ms, "resident_bytes": memory, "same_ms": calls(same), "switch_ms": calls(other)}))
""")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("packages", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--out", type=click.Path(path_type=Path), default=RESULT, help="JSON file to write.")
def main(packages: tuple[Path, ...], out: Path) -> None:
    """Measure and print."""
    result = {**measure(packages), "processor": processor(), "versions": versions()}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({key: result[key] for key in ("tasks", "file_bytes", "load_ms", "bytes_per_further_task", "same_ms", "switch_ms")}, indent=1))


def measure(packages: tuple[Path, ...]) -> dict[str, Any]:
    """Load times, memory and call times of packages in one process.

    Args:
        packages: folders of packages for ONNX Runtime with the same input.

    Returns:
        `tasks`; `file_bytes`, median of the model files; `load_ms`, median; `first_task_bytes` and `bytes_per_further_task` of resident memory;
        `same_ms` and `switch_ms`, median of a call at batch 1 after one to the same task and after one to another.
    """
    manifests = [read_manifest(package) for package in packages]
    target = manifests[0]["target"]
    if any(manifest["target"]["runtime"] != "onnxruntime" or manifest["inputs"] != manifests[0]["inputs"] for manifest in manifests):
        raise click.UsageError("the packages must be for ONNX Runtime and have the same input")
    models = [package / manifest["model_file"] for package, manifest in zip(packages, manifests, strict=True)]
    options = load_runtime("onnxruntime", target=target["name"]).session_options(target["session_options_without_vnni"])
    given = manifests[0]["inputs"][0]
    request = {"models": [str(model.resolve()) for model in models], "options": options, "calls": CALLS}
    request |= {"input": given["name"], "shape": [1, *given["shape"][1:]]}
    done = subprocess.run([sys.executable, "-c", SERVER, json.dumps(request)], check=True, capture_output=True, text=True)
    found = json.loads(done.stdout)
    growth = np.diff(found["resident_bytes"])
    return {
        "tasks": len(packages),
        "file_bytes": int(np.median([model.stat().st_size for model in models])),
        "load_ms": round(float(np.median(found["load_ms"])), 2),
        "first_task_bytes": int(growth[0]),
        "bytes_per_further_task": int(np.median(growth[1:])) if len(growth) > 1 else None,
        "same_ms": round(float(np.median(found["same_ms"])), 4),
        "switch_ms": round(float(np.median(found["switch_ms"])), 4),
    }


if __name__ == "__main__":
    main()
