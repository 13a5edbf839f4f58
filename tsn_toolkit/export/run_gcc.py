"""Compile one package's C sources and run them in processes of their own, with nothing but numpy and a C compiler.

    python run_gcc.py REQUEST.json

The request: {"model" (a file of the package), "task": "infer", "options" ({"task": name}, or empty: all tasks of the package), "inputs" (npz with
`x`), "outputs" (npz to write, with `y`)}. All inputs run in a program
for this computer; where the target's compiler and emulator are installed, the first few run in a program for the target too, and must give the same
bytes. `y` holds the outputs of all tasks that run side by side, `emulated_samples` how many inputs ran in the emulator, `left_out` why none did.

Who starts this process also stops what it leaves running after a limit of time.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

EMULATED_SAMPLES = 8
EMULATED_MACS = 10**8
"""What one run in an emulator may cost: a few seconds."""

TIME_LIMIT_S = 3 * 3600
EMULATOR_LIMIT_S = 600
"""For one command: a build or all inputs on this computer; what is to take seconds in the emulator."""


def call(command, folder, seconds=TIME_LIMIT_S, **options):
    """Run a command; its last words end this process if it fails, or does not end."""
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, check=False, timeout=seconds, **options)
    except subprocess.TimeoutExpired:
        sys.exit(f"`{' '.join(command)}` does not end within {seconds:,} s and was stopped")
    if done.returncode != 0:
        sys.exit(f"`{' '.join(command)}` fails with exit code {done.returncode}: {done.stderr.decode(errors='replace')[-400:]}")
    return done.stdout


def request_bytes(task, x):
    """The number of the task, then the input bytes of all examples."""
    offset = task["input_offset"]
    codes = np.clip(np.rint(x / np.float32(task["input_step"])), offset - 128, offset + 127) - offset
    return bytes([task["index"]]) + codes.astype(np.int8).tobytes()


def run_here(folder, task, x):
    """Output bytes (n, outputs) of the program for this computer."""
    answer = call(["./host"], folder, input=request_bytes(task, x))
    return np.frombuffer(answer, np.int8).reshape(len(x), task["output_size"])


def run_emulated(folder, task, x):
    """Output bytes (n, outputs) of the program for the target, in its emulator."""
    (folder / "input.bin").write_bytes(request_bytes(task, x))
    (folder / "output.bin").unlink(missing_ok=True)
    call(["make", "-s", "emulate"], folder, EMULATOR_LIMIT_S)
    return np.frombuffer((folder / "output.bin").read_bytes(), np.int8).reshape(len(x), task["output_size"])


def left_out(manifest):
    """Why nothing runs in the emulator, or ""."""
    target = manifest["target"]
    missing = [tool for tool in (target["toolchain"]["compiler"], *target["toolchain"]["emulator"][:1]) if shutil.which(tool) is None]
    if not missing:
        return ""
    return f"emulator left out: {' and '.join(missing)} missing, so the program for {target['name']} was not run. Install it: {target['install']}"


def emulated_count(manifest):
    """How many examples are run in the emulator: none where a tool is missing."""
    if left_out(manifest):
        return 0
    return max(1, min(EMULATED_SAMPLES, EMULATED_MACS // max(1, manifest["macs"])))


def infer(request, x):
    """Outputs for all inputs, written as npz."""
    package = Path(request["model"]).parent
    manifest = json.loads((package / "manifest.json").read_text(encoding="utf-8"))
    wanted = request["options"].get("task")
    tasks = [task for task in manifest["program"]["tasks"] if wanted in (None, task["name"])]
    if not tasks:
        sys.exit(f"the package has no task `{wanted}`")
    outputs = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file in manifest["program"]["files"]:
            shutil.copy(package / file, folder)
        call(["make", "-s", "host"], folder)
        few = x[: emulated_count(manifest)]
        for task in tasks:
            found = run_here(folder, task, x)
            if len(few) and not np.array_equal(run_emulated(folder, task, few), found[: len(few)]):
                sys.exit(f"task `{task['name']}`: the program for the target and the program for this computer give different bytes")
            outputs.append((found.astype(np.float32) + np.float32(task["output_offset"])) * np.float32(task["output_step"]))
    np.savez(request["outputs"], y=np.concatenate(outputs, axis=1), emulated_samples=len(few), left_out=left_out(manifest))


def main(path):
    """Do what the request file asks."""
    with open(path, encoding="utf-8") as file:
        request = json.load(file)
    if request["task"] != "infer":
        sys.exit(f"a C package is run, not timed or profiled here: {request['task']!r}")
    missing = [tool for tool in ("gcc", "make") if shutil.which(tool) is None]
    if missing:
        sys.exit(f"{' and '.join(missing)} not installed. Install a C compiler: apt-get install gcc make")
    with np.load(request["inputs"]) as arrays:
        x = arrays["x"]
    infer(request, x)


if __name__ == "__main__":
    main(sys.argv[1])
