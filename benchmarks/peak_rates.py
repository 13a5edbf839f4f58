"""Peak rates of this machine for a target's `rates`: what ONNX Runtime's matrix products and a large copy reach.

    python benchmarks/peak_rates.py --threads 1 --target cpu_onnxruntime

The int8 rate is that of the target's session entries on this processor. Prints the figures as they stand in a target file. Best of several
repetitions: a rate is what the hardware can do, not what it did while others ran.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from tsn_toolkit.export.processor import session_entries
from tsn_toolkit.target import Target, load_target

SIZE = 1024
COPIED_BYTES = 1 << 28
REPETITIONS = 15


def best_seconds(action: Callable[[], object]) -> float:
    """The least time of several calls, after one that is not counted."""
    action()
    times = []
    for _ in range(REPETITIONS):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return min(times)


def product_rate(node: onnx.NodeProto, inputs: dict[str, np.ndarray], weight: np.ndarray, output: int, threads: int, target: Target) -> float:
    """10^9 multiply-accumulates per second of a SIZE x SIZE x SIZE matrix product whose second operand is a constant."""
    types = {name: helper.np_dtype_to_tensor_dtype(array.dtype) for name, array in inputs.items()}
    graph = helper.make_graph(
        [node],
        "product",
        [helper.make_tensor_value_info(name, types[name], array.shape) for name, array in inputs.items()],
        [helper.make_tensor_value_info("y", output, None)],
        [numpy_helper.from_array(weight, "w")],
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    for entry, value in session_entries(target.session_options_without_vnni).items():
        options.add_session_config_entry(entry, value)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return SIZE**3 / best_seconds(lambda: session.run(None, inputs)) / 1e9


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--target", default="cpu_onnxruntime", help="a target of ONNX Runtime")
    arguments = parser.parse_args()
    threads, target = arguments.threads, load_target(arguments.target)
    random = np.random.default_rng(0)
    floats = {"x": random.standard_normal((SIZE, SIZE)).astype(np.float32)}
    codes = {"x": random.integers(0, 255, (SIZE, SIZE)).astype(np.uint8)}
    float_rate = product_rate(helper.make_node("MatMul", ["x", "w"], ["y"]), floats, floats["x"].T.copy(), TensorProto.FLOAT, threads, target)
    weight = random.integers(-target.max_code, target.max_code + 1, (SIZE, SIZE)).astype(np.int8)
    int8_rate = product_rate(helper.make_node("MatMulInteger", ["x", "w"], ["y"]), codes, weight, TensorProto.INT32, threads, target)
    source, copy = np.zeros(COPIED_BYTES, np.uint8), np.ones(COPIED_BYTES, np.uint8)
    bandwidth = 2 * COPIED_BYTES / best_seconds(lambda: np.copyto(copy, source)) / 1e9
    print(f"rates: {{threads: {threads}, int8_gmacs_per_s: {int8_rate:.1f}, float_gmacs_per_s: {float_rate:.1f}, memory_gb_per_s: {bandwidth:.1f}}}")


if __name__ == "__main__":
    main()
