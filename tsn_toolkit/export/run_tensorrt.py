"""Build and run one ONNX file on this machine's GPU in a process of its own, with nothing but numpy, torch (memory on the GPU) and tensorrt.

    python run_tensorrt.py REQUEST.json

The request: {"model", "task": "infer" | "time", "inputs" (npz with `x`), "outputs" (file to write), "batch_size", "seconds", "warmup_seconds"}.
`infer` writes an npz with `y`; `time` writes {"milliseconds": [...]} for batches of `batch_size`, each from the call to the end of the GPU's work.
"""

import json
import sys
import time

import numpy as np
import torch


def build_engine(path, shape):
    """An engine for batches up to the first dimension of `shape`."""
    import tensorrt  # only where a GPU is

    logger = tensorrt.Logger(tensorrt.Logger.WARNING)
    builder = tensorrt.Builder(logger)
    network = builder.create_network(1 << int(tensorrt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = tensorrt.OnnxParser(network, logger)
    if not parser.parse_from_file(path):
        raise SystemExit("; ".join(str(parser.get_error(index)) for index in range(parser.num_errors)))
    config, shapes = builder.create_builder_config(), builder.create_optimization_profile()
    shapes.set_shape(network.get_input(0).name, (1, *shape[1:]), tuple(shape), tuple(shape))
    config.add_optimization_profile(shapes)
    return tensorrt.Runtime(logger).deserialize_cuda_engine(builder.build_serialized_network(network, config))


class Call:
    """One execution context; called with a batch on the GPU."""

    def __init__(self, engine):
        self.context, self.stream = engine.create_execution_context(), torch.cuda.Stream()
        self.input, self.output = engine.get_tensor_name(0), engine.get_tensor_name(1)

    def __call__(self, x):
        self.context.set_input_shape(self.input, tuple(x.shape))
        y = torch.empty(tuple(self.context.get_tensor_shape(self.output)), device="cuda")
        self.context.set_tensor_address(self.input, x.data_ptr())
        self.context.set_tensor_address(self.output, y.data_ptr())
        self.context.execute_async_v3(self.stream.cuda_stream)
        self.stream.synchronize()
        return y


def infer(request, x):
    """Outputs for all inputs, in batches, written as npz."""
    size = int(request["batch_size"])
    call = Call(build_engine(request["model"], (min(size, len(x)), *x.shape[1:])))
    outputs = [call(torch.from_numpy(x[start : start + size]).cuda()).cpu().numpy() for start in range(0, len(x), size)]
    np.savez(request["outputs"], y=np.concatenate(outputs))


def measure(request, x):
    """Latencies of single calls, written as JSON."""
    x = torch.from_numpy(x[: int(request["batch_size"])]).cuda()
    call = Call(build_engine(request["model"], tuple(x.shape)))
    end = time.perf_counter() + float(request["warmup_seconds"])
    call(x)
    while time.perf_counter() < end:
        call(x)
    milliseconds = []
    end = time.perf_counter() + float(request["seconds"])
    while len(milliseconds) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        call(x)
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
