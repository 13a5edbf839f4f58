"""Time of int8 and float convolutions by number of channels, in the runtimes of this machine: what a target's `channel_multiple` rests on.

    python benchmarks/channels.py

Writes results/channels.md. Four 3x3 convolutions with ReLU in a row, as many channels out as in, one thread. All networks take turns, and of each the
shortest call counts: what a kernel takes when nothing else runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import numpy as np
import onnxruntime
import openvino
from harness.markdown import markdown_table
from harness.provenance import processor
from onnx import TensorProto, helper, numpy_helper

from tsn_toolkit.files import write_text
from tsn_toolkit.pipeline.summary import versions

RESULTS = Path(__file__).parent / "results"
DEPTH = 4
SIZES = ((32, 1, (8, 10, 12, 14, 16, 20, 22, 24, 28, 30, 32, 40, 48)), (8, 32, (32, 36, 40, 44, 48, 52, 56, 60, 64)))
"""Pixels along a side, batch, channels."""
SECONDS = 0.1
"""Of one turn."""
TURNS = 6

Call = Callable[[np.ndarray], object]


def network(channels: int, pixels: int, *, integer: bool) -> bytes:
    """The ONNX file, with random weights; where `integer`, with quantizers as both runtimes fuse them."""
    rng, nodes, constants = np.random.default_rng(0), [], []

    def constant(name: str, value: np.ndarray) -> str:
        constants.append(numpy_helper.from_array(value, name))
        return name

    def node(operation: str, inputs: list[str], output: str, **attributes: int | list[int]) -> str:
        nodes.append(helper.make_node(operation, inputs, [output], **attributes))
        return output

    if integer:
        step = [constant("step", np.array(0.05, np.float32)), constant("zero", np.array(0, np.uint8))]
        steps = [constant("steps", np.full(channels, 0.01, np.float32)), constant("zeros", np.zeros(channels, np.int8))]
    x = node("QuantizeLinear", ["x", *step], "codes") if integer else "x"
    for layer in range(DEPTH):
        shape = (channels, channels, 3, 3)
        if integer:
            x = node("DequantizeLinear", [x, *step], f"x{layer}")
            weight = constant(f"codes{layer}", rng.integers(-60, 60, shape).astype(np.int8))
            weight = node("DequantizeLinear", [weight, *steps], f"weight{layer}", axis=0)
        else:
            weight = constant(f"weight{layer}", rng.normal(size=shape).astype(np.float32))
        x = node("Relu", [node("Conv", [x, weight], f"conv{layer}", pads=[1, 1, 1, 1])], f"relu{layer}")
        if integer:
            x = node("QuantizeLinear", [x, *step], f"q{layer}")
    y = node("DequantizeLinear", [x, *step], "y") if integer else x
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", channels, pixels, pixels]) for name in ("x", y)]
    graph = helper.make_graph(nodes, "convolutions", ends[:1], ends[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def in_onnxruntime(file: bytes) -> Call:
    """One thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return lambda x: session.run(None, {"x": x})


def in_openvino(file: bytes) -> Call:
    """One thread."""
    core = openvino.Core()
    request = core.compile_model(core.read_model(file), "CPU", {"INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY"}).create_infer_request()
    return lambda x: request.infer({"x": x})


def shortest(call: Call, x: np.ndarray) -> float:
    """Milliseconds of the shortest call of one turn."""
    call(x)
    times, end = [], time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        start = time.perf_counter()
        call(x)
        times.append(time.perf_counter() - start)
    return min(times) * 1e3


def subjects() -> Iterator[tuple[list[str], float, np.ndarray, list[Call]]]:
    """Labels, millions of multiply-accumulates, input, and the calls in the order of the columns."""
    for pixels, batch, widths in SIZES:
        for channels in widths:
            x = np.random.default_rng(1).normal(size=(batch, channels, pixels, pixels)).astype(np.float32)
            integer, floating = network(channels, pixels, integer=True), network(channels, pixels, integer=False)
            calls = [in_onnxruntime(integer), in_openvino(integer), in_onnxruntime(floating), in_openvino(floating)]
            yield [f"{pixels} x {pixels}", str(batch), str(channels)], DEPTH * 9 * channels**2 * pixels**2 * batch / 1e6, x, calls


@click.command()
def main() -> None:
    """Measure and write the table."""
    measured = list(subjects())
    times = np.min([[[shortest(call, x) for call in calls] for _, _, x, calls in measured] for _ in range(TURNS)], axis=0)
    head = ["image", "batch", "channels", "ONNX Runtime int8, ms (GMAC/s)", "OpenVINO int8", "ONNX Runtime float", "OpenVINO float"]
    rows = [[*labels, *(f"{t:.3f} ({work / t:.1f})" for t in row)] for (labels, work, _, _), row in zip(measured, times, strict=True)]
    where = f"{processor()}; {', '.join(f'{k} {v}' for k, v in versions().items() if k in ('onnx', 'onnxruntime', 'openvino'))}"
    how = f"`python benchmarks/channels.py`: {DEPTH} 3x3 convolutions with ReLU, one thread, shortest of many calls in {TURNS} turns; {where}."
    write_text(RESULTS / "channels.md", f"# Channels\n\n{how}\n\n{markdown_table(head, rows)}\n")


if __name__ == "__main__":
    main()
