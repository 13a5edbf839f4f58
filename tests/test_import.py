"""Importing changes nothing: no optional runtime, no random state, no thread count, no working folder."""

import json
import os
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "tsn_toolkit"
RUNTIMES = ("onnx", "onnxruntime", "onnxoptimizer", "onnxscript", "openvino")

PROBE = """
import hashlib, json, os, random, sys, warnings
import numpy, torch

def state():
    return {
        "torch": hashlib.sha256(bytes(torch.get_rng_state().tolist())).hexdigest(),
        "numpy": hashlib.sha256(repr(numpy.random.get_state()).encode()).hexdigest(),
        "random": hashlib.sha256(repr(random.getstate()).encode()).hexdigest(),
        "threads": [torch.get_num_threads(), torch.get_num_interop_threads()],
        "dtype": str(torch.get_default_dtype()),
        "grad": torch.is_grad_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "cwd": os.getcwd(),
        "environment": dict(os.environ),
    }

before = state()
for name in sys.argv[1:]:
    __import__(name)
print(json.dumps({"before": before, "after": state(), "modules": sorted({name.split(".")[0] for name in sys.modules})}))
"""


def probe(folder: Path, *modules: str) -> dict:
    """Import modules in a fresh process that runs in `folder`; return its state before and after and what it loaded."""
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    command = [sys.executable, "-c", PROBE, *modules]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def all_modules() -> list[str]:
    """Dotted names of every module of the package but `export/run_*.py` and `quantize_*.py`, which are programs of their own processes."""
    programs = {*(PACKAGE / "export").glob("run_*.py"), *(PACKAGE / "export").glob("quantize_*.py")}
    files = (path for path in sorted(PACKAGE.rglob("*.py")) if path not in programs)
    parts = (path.relative_to(PACKAGE.parent).with_suffix("").parts for path in files)
    return [".".join(part for part in names if part != "__init__") for names in parts]


def test_importing_the_package_loads_nothing_else(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import sys, tsn_toolkit; print(*sys.modules)"]
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=True)
    loaded = {name for name in done.stdout.split() if name.split(".")[0] in {"tsn_toolkit", "torch", "numpy", "brevitas", "sklearn", *RUNTIMES}}
    assert loaded == {"tsn_toolkit"}


def test_importing_every_module_changes_no_global_state(tmp_path: Path) -> None:
    modules = all_modules()
    assert "tsn_toolkit.contracts" in modules
    seen = probe(tmp_path, *modules)
    assert seen["after"] == seen["before"]
    assert not set(RUNTIMES) & set(seen["modules"])
