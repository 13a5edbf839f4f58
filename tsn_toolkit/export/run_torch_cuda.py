"""Run one exported torch program on the GPU in a process of its own, with nothing but numpy and torch.

    python run_torch_cuda.py REQUEST.json

The request: {"model", "task": "infer" | "time", "inputs" (npz with `x`), "outputs" (file to write), "batch_size", "seconds",
"warmup_seconds"}. `infer` writes an npz with `y`; `time` writes {"milliseconds": [...]} for batches of `batch_size`, to the end of the GPU's work.
"""

import json
import sys
import time

import numpy as np
import torch
from torch.export.passes import move_to_device_pass


def load_program(request):
    """The program's module on the GPU, in float32 throughout."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    return move_to_device_pass(torch.export.load(request["model"]), "cuda").module()


def infer(request, x):
    """Outputs for all inputs, in batches, written as npz."""
    program = load_program(request)
    size = int(request["batch_size"])
    outputs = [program(torch.from_numpy(x[start : start + size]).cuda()).cpu().numpy() for start in range(0, len(x), size)]
    np.savez(request["outputs"], y=np.concatenate(outputs))


def measure(request, x):
    """Latencies of single calls, written as JSON."""
    program = load_program(request)
    x = torch.from_numpy(x[: int(request["batch_size"])]).cuda()
    end = time.perf_counter() + float(request["warmup_seconds"])
    program(x)
    while time.perf_counter() < end:
        program(x)
    milliseconds = []
    end = time.perf_counter() + float(request["seconds"])
    while len(milliseconds) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        program(x)
        torch.cuda.synchronize()
        milliseconds.append((time.perf_counter() - start) * 1e3)
    with open(request["outputs"], "w", encoding="utf-8") as file:
        json.dump({"milliseconds": milliseconds}, file)


def main(path):
    """Do what the request file asks."""
    with open(path, encoding="utf-8") as file:
        request = json.load(file)
    with np.load(request["inputs"]) as arrays:
        x = arrays["x"]
    with torch.inference_mode():
        {"infer": infer, "time": measure}[request["task"]](request, x)


if __name__ == "__main__":
    main(sys.argv[1])
