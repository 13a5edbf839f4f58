"""Free parameters in packages: both gates in each runtime that takes such a network, and refusals before anything is trained in the others."""

import dataclasses
import importlib.util
import sys
from pathlib import Path

import export_models as models
import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import free_parameter_nets as nets  # noqa: E402

from tsn_toolkit.bench.latency import bench_package  # noqa: E402
from tsn_toolkit.errors import ExportError  # noqa: E402
from tsn_toolkit.export.artefact import ExportRequest  # noqa: E402
from tsn_toolkit.export.golden import input_range  # noqa: E402
from tsn_toolkit.export.integer_interpreter import interpret  # noqa: E402
from tsn_toolkit.export.manifest import Preprocessing  # noqa: E402
from tsn_toolkit.export.onnxruntime_arithmetic import OnnxRuntimeArithmetic  # noqa: E402
from tsn_toolkit.export.package import write_package  # noqa: E402
from tsn_toolkit.export.rehearsal import check_exportable  # noqa: E402
from tsn_toolkit.free_parameters import free_parameters  # noqa: E402
from tsn_toolkit.graph.trace import trace  # noqa: E402
from tsn_toolkit.quantizers.activations import build_integer_model  # noqa: E402
from tsn_toolkit.quantizers.brevitas_graph import quantize_graph  # noqa: E402
from tsn_toolkit.quantizers.ranges import calibrate_ranges  # noqa: E402
from tsn_toolkit.target import load_target  # noqa: E402
from tsn_toolkit.verify.gates import run_gates  # noqa: E402
from tsn_toolkit.verify.package_check import verify_package  # noqa: E402

WORDS, LENGTH = 40, 12


def images(count, seed=0):
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


def numbers(count, seed=0):
    return torch.randint(0, WORDS, (count, LENGTH), generator=torch.Generator().manual_seed(seed)).float()


NETS = {
    "vit": (nets.tiny_vit, images, "layerwise"),
    "tokens": (nets.token_net, numbers, "layerwise"),
    "cnn": (nets.scaled_cnn, images, "graph"),
}


def made(net, *, small=False):
    """A task of a net with random integers and free parameters far from 0, its ranges, 60 inputs."""
    build, inputs, _ = NETS[net]
    torch.manual_seed(3)
    task = models.extracted_of(build())
    task = models.with_smaller_codes(task) if small else task
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in free_parameters(task.model).values():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    if net == "tokens":
        task = dataclasses.replace(task, numbers_below=WORDS)
    x = inputs(60)
    return task, calibrate_ranges(task.model, task.q, task.scale, [x]), x


@pytest.mark.parametrize(
    ("net", "target"),
    [
        *((net, "cpu_onnxruntime_no_vnni") for net in NETS),
        *((net, "cpu_openvino") for net in NETS),
        *((net, "gpu_tensorrt") for net in NETS),
        pytest.param("vit", "cpu_torch", marks=pytest.mark.slow),
        pytest.param("tokens", "cpu_torch", marks=pytest.mark.slow),
    ],
)
def test_both_gates_pass(tmp_path, net, target):
    target = load_target(target)
    modules = {"onnxruntime": "onnxruntime", "openvino": "openvino", "tensorrt": "onnx", "torch": "torch"}
    if importlib.util.find_spec(modules[target.runtime]) is None:
        pytest.skip(f"{target.runtime} is not installed")
    task, ranges, x = made(net, small=target.max_code < 127)
    if target.runtime == "torch":
        task = dataclasses.replace(task, macs=task.dense_macs - 1)  # as where units were removed
    found = {}

    def measure(draft, artefact):
        found["parity"] = run_gates(draft, task, artefact.reference, target, x, task.model(x).argmax(1))
        return {}

    manifest = write_package(task, ranges, target, tmp_path / "p", example_input=x[:1], measure=measure)
    assert found["parity"].passed, found["parity"].failures
    assert found["parity"].sqnr_db > 20
    assert manifest["inputs"][0].get("below") == (WORDS if net == "tokens" else None)
    if target.runtime in ("onnxruntime", "openvino"):
        assert verify_package(tmp_path / "p").failures == ()
        assert bench_package(tmp_path / "p", batches=(1,), seconds=0.02)["batch_1"]["median"] > 0
        recorded = np.load(tmp_path / "p" / "golden.npz")["x"]
        assert net != "tokens" or (recorded.min() >= 0 and recorded.max() <= WORDS - 1)


@pytest.mark.parametrize("net", NETS)
def test_how_a_net_is_quantized(net):
    build, inputs, mode = NETS[net]
    graph = quantize_graph(build().eval(), inputs(2))
    assert graph.mode == mode
    assert net != "tokens" or "an embedding looks whole numbers up" in graph.notes[0]


def test_a_sum_with_a_parameter_may_be_negative():
    """Brevitas alone takes a ReLU plus a parameter for unsigned, whatever the parameter holds, and cuts the sum off at 0."""
    task, ranges, x = made("cnn")
    assert ranges["relu"].signed is False and ranges["add_output_quant"].signed is True
    integer = build_integer_model(task.model, task.q, task.scale, x[:1], ranges=ranges)
    with torch.no_grad():
        wanted, got = task.model(x), integer(x)
    assert float((got - wanted).norm() / wanted.norm()) < 0.1


def test_the_reference_adds_and_multiplies_constants_as_the_runtime_does():
    """By hand, from the first sum to the codes that the second convolution reads, against the interpreter's own."""
    task, ranges, x = made("cnn")
    reference = build_integer_model(task.model, task.q, task.scale, x[:1], ranges=ranges)
    seen = {}

    class Watched(OnnxRuntimeArithmetic):
        def _module(self, name, args):
            result = super()._module(name, args)
            seen[name] = result
            return result

    outputs, kind = interpret(Watched(reference), x[:5])
    assert kind == "simulated" and outputs.shape == (5, 6)
    model, step = task.model, {name: np.float32(span.scale) for name, span in ranges.items()}
    relu = seen["relu"].value.numpy() * step["relu"]
    total = np.rint((relu + model.offset.detach().numpy()) / step["add_output_quant"]).clip(-128, 127)
    np.testing.assert_array_equal(seen["add_output_quant"].value.numpy(), total)
    product = np.rint(total.astype(np.float32) * step["add_output_quant"] * model.gamma.detach().numpy() / step["conv2_input_quant"])
    np.testing.assert_array_equal(seen["conv2_input_quant"].value.numpy(), product.clip(-128, 127))


@pytest.mark.parametrize(
    ("net", "target", "message"),
    [
        ("vit", "edge_cortex_m4", r"A C program needs every activation quantized"),
        ("vit", "edge_executorch_xnnpack", "ExecuTorch needs a model that is quantized as a graph"),
        ("tokens", "edge_linux_aarch64_c", r"`words` \(Embedding\) has no integer rule in C"),
        ("tokens", "edge_executorch_xnnpack", "an embedding looks whole numbers up"),
        ("cnn", "edge_executorch_xnnpack", "`offset` is a parameter or buffer of no layer"),
        ("cnn", "edge_cortex_m4", r"`offset` \(a parameter or buffer\) has no integer rule in C"),
    ],
)
def test_other_targets_refuse_before_training(net, target, message):
    build, inputs, _ = NETS[net]
    model = build().eval()
    with pytest.raises(ExportError, match=f"Target `{target}` cannot take this network, so nothing is trained: .*{message}"):
        check_exportable(model, trace(model, inputs(1)), [load_target(target)])


@pytest.mark.parametrize(("below", "highest"), [(40, 39), (513, 512), (2050, 2048), (4096, 4092), (5000, 4996)])
def test_recorded_numbers_stay_below_the_length_of_the_table(below, highest):
    """They are kept as float16, which has no 4095 between 4094 and 4096."""
    task = dataclasses.replace(made("tokens")[0], numbers_below=below)
    span = input_range(Preprocessing(), task, {})
    assert span.low == (0.0,) and below - 5 < span.high[0] <= below - 1 and span.high[0] == float(np.float16(span.high[0]))
    assert span.high[0] >= highest - 2


def test_an_export_request_of_a_net_that_lost_units_holds_small_parameters(tmp_path):
    from tsn_toolkit.graph.shrink import shrink

    model = nets.scaled_cnn().eval()
    graph = trace(model, images(1))
    small = shrink(model, graph, {"conv1": np.array([1, 0, 1, 1, 0, 1, 1, 1], bool)}).model
    assert small.offset.shape == (1, 6, 8, 8) and small.gamma.shape == (6, 1, 1)
    task = models.with_smaller_codes(models.extracted_of(small))
    x = images(20)
    ranges = calibrate_ranges(task.model, task.q, task.scale, [x])
    target = load_target("cpu_onnxruntime_no_vnni")
    from tsn_toolkit.export import onnxruntime as exporter

    artefact = exporter.export(ExportRequest(task, ranges, target, x[:1]), tmp_path)
    parity = run_gates_of(tmp_path, artefact, task, target, x)
    assert artefact.model_file and parity < 1e-3


def run_gates_of(folder, artefact, task, target, x):
    """Largest difference of the file in its runtime from the reference, relative to the largest output."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(folder / artefact.model_file))
    got = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
    outputs, _ = interpret(OnnxRuntimeArithmetic(artefact.reference), x)
    return float(np.abs(got - outputs.numpy()).max() / np.abs(got).max())
