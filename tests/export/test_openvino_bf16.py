"""Float packages for OpenVINO in bfloat16: the store's integers in the file, the float model's answers, and a word where it was not run."""

import shutil

import export_models as models
import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

pytest.importorskip("openvino", reason="OpenVINO is not installed")

import tsn_toolkit.export.openvino_bf16 as exporter
from tsn_toolkit.errors import ExportError, GateError, TargetError
from tsn_toolkit.export.child import infer
from tsn_toolkit.export.manifest import add_measurements, read_manifest
from tsn_toolkit.export.package import write_package
from tsn_toolkit.export.torch import from_integers
from tsn_toolkit.target import load_target
from tsn_toolkit.verify.gates import run_gates
from tsn_toolkit.verify.package_check import verify_package

TARGET = load_target("cpu_openvino_bf16")
without_bfloat16 = pytest.mark.skipif(not exporter.cannot_run(), reason="the processor has bfloat16 instructions: packages are run")
with_bfloat16 = pytest.mark.skipif(bool(exporter.cannot_run()), reason=exporter.cannot_run())
FLOAT32 = {"INFERENCE_PRECISION_HINT": "f32"}


class Tokens(nn.Module):
    """A linear layer over a sequence, whose weight stands transposed in the graph, and one over its mean."""

    def __init__(self) -> None:
        super().__init__()
        self.each, self.norm, self.linear = nn.Linear(8, 6), nn.LayerNorm(6), nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(torch.relu(self.norm(self.each(x.flatten(1, 2)))).mean(1))


@pytest.fixture(scope="module")
def package(task, tmp_path_factory):
    folder = tmp_path_factory.mktemp("packages") / "task"
    write_package(task, {}, TARGET, folder, example_input=models.inputs(1))
    return folder


def initializers(path):
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}


def change(path, name, change_):
    """Rewrites one tensor of a file."""
    model = onnx.load(path)
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    values = numpy_helper.to_array(tensor).copy()
    change_(values)
    tensor.CopyFrom(numpy_helper.from_array(values, name))
    path.write_bytes(model.SerializeToString())


def test_file_holds_the_integers_and_scales_of_the_store(package, task):
    found = initializers(package / "model.onnx")
    for layer, codes in task.q.items():
        assert found[f"{layer}.weight.codes"].dtype == np.int8 and np.array_equal(found[f"{layer}.weight.codes"], codes)
        assert np.array_equal(found[f"{layer}.weight.scale"], task.scale[layer].reshape(-1)) and f"{layer}.weight" not in found
    assert np.array_equal(found["bn1.weight"], task.model.bn1.weight.detach().numpy()), "norms stand as they are, folded into nothing"
    manifest = read_manifest(package)
    assert manifest["bytes_by_part"]["weights"] == sum(codes.size for codes in task.q.values())


@pytest.mark.parametrize("make", [models.ResidualNet, Tokens])
def test_the_file_answers_like_the_float_model(make, tmp_path):
    task, x = models.extracted_of(make()), models.inputs(20, seed=7)
    write_package(task, {}, TARGET, tmp_path / "p", example_input=models.inputs(1))
    got = infer(tmp_path / "p" / "model.onnx", x.numpy(), runtime="openvino_bf16", options=FLOAT32)
    wanted = task.model(x).detach().numpy()
    assert np.abs(got - wanted).max() < 1e-5 * np.abs(wanted).max()


def test_tensors_with_equal_values_stand_under_their_own_names(tmp_path):
    """torch writes equal tensors once: here the statistics of both norms, and both convolutions."""
    task = models.extracted_of(models.ResidualNet(channels=3))
    task.model.conv2.weight.data.copy_(task.model.conv1.weight)
    task.q["conv2"], task.scale["conv2"] = task.q["conv1"].copy(), task.scale["conv1"].copy()
    for norm in (task.model.bn1, task.model.bn2):
        norm.reset_parameters()
    write_package(task, {}, TARGET, tmp_path / "p", example_input=models.inputs(1))
    found = initializers(tmp_path / "p" / "model.onnx")
    assert {"bn1.running_var", "bn2.running_var", "conv1.weight.codes", "conv2.weight.codes"} <= set(found)
    x = models.inputs(5)
    got = infer(tmp_path / "p" / "model.onnx", x.numpy(), runtime="openvino_bf16", options=FLOAT32)
    np.testing.assert_allclose(got, task.model(x).detach().numpy(), rtol=1e-4, atol=1e-5)


@without_bfloat16
def test_package_says_it_was_not_run(package, task):
    parity = run_gates(package, task, from_integers(task), TARGET, models.inputs(16, seed=7))
    assert "no bfloat16 instructions" in parity.not_run and parity.failures == () and np.isnan(parity.output_steps)
    readme = (package / "README.md").read_text()
    assert "This package was not run here" in readme and "It needs numpy and openvino >= 2026.4." in readme
    assert verify_package(package).not_run


@with_bfloat16
def test_package_passes_both_gates(package, task):
    assert run_gates(package, task, from_integers(task), TARGET, models.inputs(48, seed=7)).passed
    assert "largest difference to the recorded outputs" in models.readme_output(package)


@pytest.mark.parametrize(
    ("name", "change_"),
    [
        ("conv2.weight.codes", lambda q: np.bitwise_xor(q.view(np.uint8), 0x80, out=q.view(np.uint8))),
        ("linear.weight.scale", lambda scale: np.multiply(scale, 2, out=scale)),
        ("bn1.bias", lambda bias: np.add(bias, 1, out=bias)),
    ],
)
def test_a_changed_tensor_fails_even_when_rehashed(package, task, tmp_path, name, change_):
    copy = tmp_path / "copy"
    shutil.copytree(package, copy)
    change(copy / "model.onnx", name, change_)
    with pytest.raises(GateError, match="`model.onnx` has sha256"):
        verify_package(copy)
    add_measurements(copy, {})
    parity = run_gates(copy, task, from_integers(task), TARGET, models.inputs(16, seed=7))
    assert f"tensor `{name}` is not the store's" in parity.failures[0]


def test_a_file_that_is_no_onnx_is_named(task, tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"no model")
    with pytest.raises(ExportError, match=r"`model.onnx` (cannot be read|holds no tensor)"):
        exporter.check_weights(tmp_path / "model.onnx", task, from_integers(task))


def test_a_target_without_opset_is_refused(task, tmp_path):
    with pytest.raises(TargetError, match="must set `opset`"):
        write_package(task, {}, TARGET.model_copy(update={"opset": None}), tmp_path / "p", example_input=models.inputs(1))
