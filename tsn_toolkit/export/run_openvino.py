"""Run one ONNX file in a process of its own, with nothing but numpy and openvino.

    python run_openvino.py REQUEST.json

The request is that of `runner`; `options` are properties. A further task, `profile`, writes one record per executed node: {"name", "operation",
"precision", "layers", "output_shape", "microseconds"}.
"""

import sys

import numpy as np
import openvino
from runner import serve


def compile_model(request, shape, **extra):
    """The model as the request describes it, compiled for inputs of one shape, batch included; `extra` are further properties."""
    core = openvino.Core()
    model = core.read_model(request["model"])
    model.reshape(list(shape))
    settings = {"INFERENCE_NUM_THREADS": int(request["threads"]), "NUM_STREAMS": 1, **request["options"], **extra}
    return core.compile_model(model, "CPU", settings)


class Session:
    """The model compiled once for each shape of a batch."""

    def __init__(self, request, shape):
        self.request = request
        self.calls = {}

    def put(self, x):
        """The batch itself, once the model is compiled for its shape."""
        if x.shape not in self.calls:
            self.calls[x.shape] = compile_model(self.request, x.shape).create_infer_request().infer
        return x

    def __call__(self, x):
        return self.calls[x.shape]([x])

    def get(self, outputs):
        """A copy of the one output, which the next call overwrites."""
        return np.array(outputs[0])


def profile(request, x):
    """The nodes that run for the first batch, as the compiled model itself describes them, with the time of the second call."""
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
    return records


if __name__ == "__main__":
    serve(sys.argv[1], Session, profile=profile)
