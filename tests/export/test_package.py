"""A whole package: weights, reference, README, manifest, and what stops one."""

import copy
import json
import subprocess
import sys

import export_models as models
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper

from tsn_toolkit.errors import ExportError, GateError, TargetError
from tsn_toolkit.export.artefact import ExportRequest, require_modules
from tsn_toolkit.export.child import infer
from tsn_toolkit.export.integer_interpreter import Codes, Sum, interpret
from tsn_toolkit.export.integer_onnx import check_weights
from tsn_toolkit.export.manifest import Preprocessing, read_manifest, sha256_of
from tsn_toolkit.export.onnxruntime import export as export_onnxruntime
from tsn_toolkit.export.onnxruntime_arithmetic import OnnxRuntimeArithmetic, requantized_sum
from tsn_toolkit.export.package import PackageOptions, write_package
from tsn_toolkit.export.processor import session_entries
from tsn_toolkit.target import load_target
from tsn_toolkit.verify.gates import nearest_reference

TARGET = load_target("cpu_onnxruntime")


@pytest.fixture(scope="module")
def package(task, ranges, tmp_path_factory):
    folder = tmp_path_factory.mktemp("packages") / "task"
    options = PackageOptions(Preprocessing((0.5, 0.5, 0.5), (0.2, 0.2, 0.2), 1 / 255), labels=(3, 1, 4, 1, 5))
    write_package(task, ranges, TARGET, folder, example_input=models.inputs(1), options=options)
    return folder


def test_int8_weights_equal_the_stores_codes(package, task):
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(package / "model.onnx").graph.initializer}
    for layer, codes in task.q.items():
        found = tensors[f"{layer}.weight"]
        assert found.dtype == np.int8
        assert np.array_equal(found[1:], codes[1:])
        assert np.array_equal(found[0], codes[0] if layer == "linear" else -codes[0])
    assert len(np.unique(tensors["conv2.weight"][1:])) <= 16


def test_graph_is_qdq_without_clips_and_with_a_free_batch(package):
    graph = onnx.load(package / "model.onnx").graph
    operations = {node.op_type for node in graph.node}
    assert "Clip" not in operations and {"QuantizeLinear", "DequantizeLinear", "Conv", "Gemm"} <= operations
    assert [value.name for value in graph.input] == ["input"]
    assert graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert any(tensor.data_type == onnx.TensorProto.INT32 for tensor in graph.initializer)


def test_runtime_equals_the_integer_reference_exactly(package, reference):
    x = models.inputs(100, seed=5)
    expected, kind = interpret(OnnxRuntimeArithmetic(reference), x, batch_size=7)
    assert kind == "integer"
    got = infer(package / "model.onnx", x.numpy(), runtime="onnxruntime", options=session_entries(TARGET.session_options_without_vnni), batch_size=33)
    steps = np.abs(got - expected.numpy()) / reference.output_step
    assert steps.max() < 0.01
    assert len(np.unique(np.round(got / reference.output_step))) > 50


def test_runtime_adds_in_one_of_the_two_orders(tmp_path):
    """All pairs of codes under scales for which the order of the operands decides some ties."""
    first, second = (torch.arange(256.0).repeat_interleave(256), torch.arange(256.0).repeat(256))
    ties, wrong = 0, {"first": 0, "second": 0}
    for number in range(40):
        scales = np.random.default_rng(number).uniform(0.01, 0.1, 3).astype(np.float32)
        got = runtime_sum(tmp_path / "add.onnx", first.numpy(), second.numpy(), scales)
        operands = [Codes(codes, torch.tensor(scale), False) for codes, scale in zip((first, second), scales[:2], strict=True)]
        sums = {"first": Sum(*operands), "second": Sum(*reversed(operands))}
        codes = {order: requantized_sum(pair, torch.tensor(scales[2]), 0.0).clamp(0, 255).numpy() for order, pair in sums.items()}
        ties += int((codes["first"] != codes["second"]).sum())
        for order, expected in codes.items():
            wrong[order] += int((got != expected).sum())
    assert ties > 0 and min(wrong.values()) == 0 and max(wrong.values()) == ties


def runtime_sum(path, first, second, scales):
    """What ONNX Runtime's QLinearAdd makes of two vectors of uint8 codes with zero points 0."""
    constants = {"a_s": scales[0], "b_s": scales[1], "y_s": scales[2], "z": np.uint8(0)}
    node = onnx.helper.make_node("QLinearAdd", ["a", "a_s", "z", "b", "b_s", "z", "y_s", "z"], ["y"], domain="com.microsoft")
    inputs, outputs = ([onnx.helper.make_tensor_value_info(name, onnx.TensorProto.UINT8, [None]) for name in names] for names in ("ab", "y"))
    graph = onnx.helper.make_graph([node], "add", inputs, outputs, [onnx.numpy_helper.from_array(np.array(v), k) for k, v in constants.items()])
    opsets = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("com.microsoft", 1)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {"a": first.astype(np.uint8), "b": second.astype(np.uint8)})[0]


def test_the_nearest_reference_is_taken():
    artefact, near, far = (np.full((2, 3), value, np.float32) for value in (1.0, 1.25, 3.0))
    assert nearest_reference(artefact, (far, near), 0.5) is near and nearest_reference(artefact, (artefact, near), 0.5) is artefact
    assert nearest_reference(np.full((2, 3), np.nan, np.float32), (far, near), 0.5) is near


def test_integer_reference_is_near_brevitas(reference):
    x = models.inputs(50, seed=6)
    integer, _ = interpret(OnnxRuntimeArithmetic(reference), x)
    with torch.no_grad():
        simulated = reference(x)
    assert float((integer - simulated).abs().max()) <= 2.01 * reference.output_step


def test_manifest_describes_every_file(package, task):
    manifest = read_manifest(package)
    assert set(manifest["files"]) == {"model.onnx", "golden.npz", "README.md"}
    assert manifest["versions"]["onnxruntime"] == onnxruntime.__version__ and "tsn-toolkit" in manifest["versions"]
    for name, record in manifest["files"].items():
        assert record == {"sha256": sha256_of(package / name), "bytes": (package / name).stat().st_size}
    assert manifest["task"] == "task" and manifest["arithmetic"] == "integer" and manifest["labels"] == [3, 1, 4, 1, 5]
    assert manifest["negated_channels"] == {"conv1": [0], "conv2": [0]} and manifest["requantized_channels"] == {}
    assert manifest["inputs"] == [{"name": "input", "dtype": "float32", "shape": ["batch", 3, 8, 8]}]
    assert manifest["preprocessing"]["mean"] == [0.5, 0.5, 0.5]
    assert sum(manifest["bytes_by_part"].values()) == (package / "model.onnx").stat().st_size
    assert manifest["bytes_by_part"]["weights"] == sum(q.size for q in task.q.values())
    assert str(package.parent) not in (package / "manifest.json").read_text()


def test_readme_code_runs_with_the_runtime_alone(package):
    text = (package / "README.md").read_text()
    code = text.split("```python\n")[1].split("```")[0]
    assert "session.x64quantprecision" in code and "tsn_toolkit" not in code
    done = subprocess.run([sys.executable, "-c", code], cwd=package, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "largest difference to the recorded outputs: 0.000 output steps" in done.stdout


def test_same_inputs_same_bytes(package, task, ranges, tmp_path):
    options = PackageOptions(Preprocessing((0.5, 0.5, 0.5), (0.2, 0.2, 0.2), 1 / 255), labels=(3, 1, 4, 1, 5))
    write_package(task, ranges, TARGET, tmp_path / "again", example_input=models.inputs(1), options=options)
    assert (tmp_path / "again" / "manifest.json").read_bytes() == (package / "manifest.json").read_bytes()


def test_requantized_channels_are_compared_with_the_references(package, task, reference, tmp_path):
    """A channel whose codes had to be rounded anew is the reference's, not free."""
    changed = copy.copy(reference)
    changed.requantized = {**reference.requantized, "conv1": (1,)}
    proto = onnx.load(package / "model.onnx")
    [weight] = [tensor for tensor in proto.graph.initializer if tensor.name == "conv1.weight"]
    codes = numpy_helper.to_array(weight).copy()
    check_weights(package / "model.onnx", task, changed)
    codes[1, 0, 0, 0] ^= 1
    weight.CopyFrom(numpy_helper.from_array(codes, weight.name))
    onnx.save(proto, tmp_path / "model.onnx")
    with pytest.raises(ExportError, match=r"layer `conv1`, channels \[1\], are not the store's integers"):
        check_weights(tmp_path / "model.onnx", task, changed)


def test_failed_measurement_leaves_nothing(task, ranges, tmp_path):
    def refuse(draft, artefact):
        assert (draft / "model.onnx").is_file()
        raise GateError("gate said no")

    with pytest.raises(GateError, match="gate said no"):
        write_package(task, ranges, TARGET, tmp_path / "p", example_input=models.inputs(1), measure=refuse)
    assert list(tmp_path.iterdir()) == []


def test_measurements_are_hashed(task, ranges, tmp_path):
    measured = {"parity.json": {"output_steps": 0.0, "accuracy": float("nan")}}
    manifest = write_package(task, ranges, TARGET, tmp_path / "p", example_input=models.inputs(1), measure=lambda draft, artefact: measured)
    assert manifest["files"]["parity.json"]["sha256"] == sha256_of(tmp_path / "p" / "parity.json")
    assert json.loads((tmp_path / "p" / "parity.json").read_text()) == {"output_steps": 0.0, "accuracy": None}
    assert manifest["parity"] == {"output_steps": 0.0, "accuracy": None} and manifest["accuracy"] is None


def test_manifest_carries_recipe_and_measurements(task, ranges, tmp_path):
    options = PackageOptions(recipe={"seed": 3, "training": {"epochs": 2}})
    measured = {"parity.json": {"accuracy": 0.5}, "bench.json": {"threads": 1}}
    manifest = write_package(task, ranges, TARGET, tmp_path / "p", example_input=models.inputs(1), options=options, measure=lambda *_: measured)
    assert manifest["recipe"] == {"seed": 3, "training": {"epochs": 2}}
    assert manifest["accuracy"] == 0.5 and manifest["parity"] == {"accuracy": 0.5} and manifest["bench"] == {"threads": 1}


def test_refusals(package, task, ranges, tmp_path):
    with pytest.raises(ExportError, match="exists already"):
        write_package(task, ranges, TARGET, package, example_input=models.inputs(1))
    with pytest.raises(TargetError, match="'abacus' has no exporter; known: .*onnxruntime"):
        write_package(task, ranges, TARGET.model_copy(update={"runtime": "abacus"}), tmp_path / "a", example_input=models.inputs(1))
    with pytest.raises(ExportError, match="magnitude 127; target `cpu_onnxruntime` allows at most 63"):
        export_onnxruntime(ExportRequest(task, ranges, TARGET.model_copy(update={"max_code": 63}), models.inputs(1)), tmp_path)
    with pytest.raises(TargetError, match=r"needs onnxruntime >= 999\.0, found"):
        export_onnxruntime(ExportRequest(task, ranges, TARGET.model_copy(update={"minimum_version": "999.0"}), models.inputs(1)), tmp_path)
    with pytest.raises(TargetError, match="needs no_such_runtime.*pip install it"):
        require_modules(["no_such_runtime"], target="t", install="pip install it")
    with pytest.raises(GateError, match="has no manifest.json"):
        read_manifest(tmp_path)
