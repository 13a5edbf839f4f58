"""Run one ExecuTorch program in a process of its own, with nothing but numpy, torch (tensors) and ExecuTorch's C++ runtime.

    python run_executorch.py REQUEST.json

The request: {"model", "threads", "task": "infer" | "time", "inputs" (npz with `x`), "outputs" (file to write), "batch_size", "seconds",
"warmup_seconds"}. `infer` writes an npz with `y`; `time` writes {"milliseconds": [...]} for batches of `batch_size`.

`executorch.runtime` offers the same runtime to a user, but importing it also imports the whole exporter: seconds of every process.
"""

import json
import sys
import time

import numpy as np
import torch  # before the runtime, which is linked against it
from executorch.extension.pybindings import _C as runtime


def load_program(request):
    """The program's `forward`, which takes a batch and gives logits; as many threads as the request says."""
    threads = int(request["threads"])
    torch.set_num_threads(threads)
    runtime._unsafe_reset_threadpool(threads)
    program = runtime._load_program(request["model"], enable_etdump=False, debug_buffer_size=0)
    method = program.load_method("forward")
    return program, lambda x: method.call([x])[0]


def infer(request, x):
    """Outputs for all inputs, in batches, written as npz."""
    _program, forward = load_program(request)
    size = int(request["batch_size"])
    outputs = [forward(torch.from_numpy(x[start : start + size])).numpy().copy() for start in range(0, len(x), size)]
    np.savez(request["outputs"], y=np.concatenate(outputs))


def measure(request, x):
    """Latencies of single calls, written as JSON."""
    _program, forward = load_program(request)
    x = torch.from_numpy(x[: int(request["batch_size"])])
    end = time.perf_counter() + float(request["warmup_seconds"])
    forward(x)
    while time.perf_counter() < end:
        forward(x)
    milliseconds = []
    end = time.perf_counter() + float(request["seconds"])
    while len(milliseconds) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        forward(x)
        milliseconds.append((time.perf_counter() - start) * 1e3)
    with open(request["outputs"], "w", encoding="utf-8") as file:
        json.dump({"milliseconds": milliseconds}, file)


def main(path):
    """Do what the request file asks."""
    with open(path, encoding="utf-8") as file:
        request = json.load(file)
    with np.load(request["inputs"]) as arrays:
        x = arrays["x"]
    {"infer": infer, "time": measure}[request["task"]](request, x)


if __name__ == "__main__":
    main(sys.argv[1])
