"""Run one ONNX file in a process of its own, with nothing but numpy and openvino.

    python run_openvino.py REQUEST.json

The request: {"model", "options" {property: value}, "threads", "task": "infer" | "profile" | "time", "inputs" (npz with `x`), "outputs" (file to
write), "batch_size", "seconds", "warmup_seconds"}. `infer` writes an npz with `y`; `profile` writes one record per executed node, {"name",
"operation", "precision", "layers", "output_shape", "microseconds"}, as JSON; `time` writes {"milliseconds": [...]} for batches of `batch_size`.
"""

import json
import sys
import time

import numpy as np
import openvino


def compile_model(request, shape, **extra):
    """The model as the request describes it, compiled for inputs of one shape, batch included; `extra` are further properties."""
    core = openvino.Core()
    model = core.read_model(request["model"])
    model.reshape(list(shape))
    settings = {"INFERENCE_NUM_THREADS": int(request["threads"]), "NUM_STREAMS": 1, **request["options"], **extra}
    return core.compile_model(model, "CPU", settings)


def infer(request, x):
    """Outputs for all inputs, in batches, written as npz."""
    size = int(request["batch_size"])
    batches = [x[start : start + size] for start in range(0, len(x), size)]
    compiled = {shape: compile_model(request, shape) for shape in {batch.shape for batch in batches}}
    outputs = [np.array(compiled[batch.shape](batch)[0]) for batch in batches]
    np.savez(request["outputs"], y=np.concatenate(outputs))


def profile(request, x):
    """The nodes that run for the first batch, as the compiled model itself describes them, with the time of the second call, written as JSON."""
    x = x[: int(request["batch_size"])]
    compiled = compile_model(request, x.shape, PERF_COUNT="YES")
    call = compiled.create_infer_request()
    call.infer([x])
    call.infer([x])
    microseconds = {node.node_name: node.real_time.total_seconds() * 1e6 for node in call.get_profiling_info()}
    records = []
    for node in compiled.get_runtime_model().get_ordered_ops():
        told = {key: node.get_rt_info()[key].astype(str) for key in ("layerType", "runtimePrecision", "originalLayersNames")}
        records.append(
            {
                "name": node.get_friendly_name(),
                "operation": told["layerType"],
                "precision": told["runtimePrecision"],
                "layers": told["originalLayersNames"].split(","),
                "output_shape": list(node.get_output_shape(0)) if node.get_output_size() else [],
                "microseconds": microseconds.get(node.get_friendly_name(), 0.0),
            }
        )
    with open(request["outputs"], "w", encoding="utf-8") as file:
        json.dump(records, file)


def measure(request, x):
    """Latencies of single calls on one batch, written as JSON."""
    x = x[: int(request["batch_size"])]
    call = compile_model(request, x.shape).create_infer_request().infer
    end = time.perf_counter() + float(request["warmup_seconds"])
    call([x])
    while time.perf_counter() < end:
        call([x])
    milliseconds = []
    end = time.perf_counter() + float(request["seconds"])
    while len(milliseconds) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        call([x])
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
