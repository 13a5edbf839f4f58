"""Run one ONNX file in a process of its own, with nothing but numpy and onnxruntime.

    python run_onnxruntime.py REQUEST.json

The request: {"model", "options" {entry: value}, "threads", "task": "infer" | "profile" | "time", "inputs" (npz with `x`), "outputs" (file to write),
"batch_size", "seconds", "warmup_seconds"}. `infer` writes an npz with `y`; `profile` writes the runtime's node events as JSON; `time` writes
{"milliseconds": [...]} for batches of `batch_size`.
"""

import json
import os
import sys
import time

import numpy as np
import onnxruntime


def open_session(request, profile_prefix=""):
    """An inference session as the request describes it; `profile_prefix` switches the runtime's profiler on."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(request["threads"])
    options.inter_op_num_threads = 1
    for entry, value in request["options"].items():
        options.add_session_config_entry(entry, value)
    if profile_prefix:
        options.enable_profiling = True
        options.profile_file_prefix = profile_prefix
    return onnxruntime.InferenceSession(request["model"], options, providers=["CPUExecutionProvider"])


def infer(request, x):
    """Outputs for all inputs, in batches, written as npz."""
    session = open_session(request)
    name = session.get_inputs()[0].name
    size = int(request["batch_size"])
    outputs = [session.run(None, {name: x[start : start + size]})[0] for start in range(0, len(x), size)]
    np.savez(request["outputs"], y=np.concatenate(outputs))


def profile(request, x):
    """The profiler's node events of one run of the first batch, written as JSON."""
    session = open_session(request, request["outputs"] + ".trace")
    session.run(None, {session.get_inputs()[0].name: x[: int(request["batch_size"])]})
    trace = session.end_profiling()
    with open(trace, encoding="utf-8") as file:
        events = json.load(file)
    os.remove(trace)
    nodes = [event for event in events if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")]
    with open(request["outputs"], "w", encoding="utf-8") as file:
        json.dump(nodes, file)


def measure(request, x):
    """Latencies of single calls, written as JSON."""
    session = open_session(request)
    feed = {session.get_inputs()[0].name: x[: int(request["batch_size"])]}
    end = time.perf_counter() + float(request["warmup_seconds"])
    session.run(None, feed)
    while time.perf_counter() < end:
        session.run(None, feed)
    milliseconds = []
    end = time.perf_counter() + float(request["seconds"])
    while len(milliseconds) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        session.run(None, feed)
        milliseconds.append((time.perf_counter() - start) * 1e3)
    with open(request["outputs"], "w", encoding="utf-8") as file:
        json.dump({"milliseconds": milliseconds}, file)


def main(path):
    """Do what the request file asks."""
    with open(path, encoding="utf-8") as file:
        request = json.load(file)
    with np.load(request["inputs"]) as arrays:
        x = arrays["x"]
    {"infer": infer, "profile": profile, "time": measure}[request["task"]](request, x)


if __name__ == "__main__":
    main(sys.argv[1])
