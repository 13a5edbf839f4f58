"""TensorRT files of networks that are not plain chains of convolutions: attention, and branches that are joined."""

import export_models as models
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper

from tsn_toolkit.export.integer_interpreter import interpret
from tsn_toolkit.export.manifest import read_manifest
from tsn_toolkit.export.package import write_package
from tsn_toolkit.export.tensorrt_arithmetic import TensorRtArithmetic
from tsn_toolkit.export.tensorrt_rules import lint
from tsn_toolkit.models.small_vit import small_vit
from tsn_toolkit.models.text_cnn import text_cnn
from tsn_toolkit.quantizers.activations import build_integer_model, calibrate_ranges
from tsn_toolkit.target import load_target


def sentences(count, seed):
    """One-hot words (count, 40, 12)."""
    words = torch.randint(0, 40, (count, 12), generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.one_hot(words, 40).transpose(1, 2).float()


def made(model, examples, package):
    """(package, reference) of a network with random integer weights."""
    task = models.extracted_of(model)
    ranges = calibrate_ranges(task.model, task.q, task.scale, [examples])
    write_package(task, ranges, load_target("gpu_tensorrt"), package, example_input=examples[:1])
    return package, build_integer_model(task.model, task.q, task.scale, examples[:1], ranges=ranges)


@pytest.fixture(scope="module")
def attention(tmp_path_factory):
    return made(small_vit(width=16, depth=1, heads=2), models.inputs(64, 32), tmp_path_factory.mktemp("packages") / "vit")


@pytest.fixture(scope="module")
def branches(tmp_path_factory):
    model = text_cnn(vocabulary=40, length=12, dimensions=8, filters=6, kernels=(1, 3), classes=4)
    return made(model, sentences(64, 1), tmp_path_factory.mktemp("packages") / "text")


def run(proto, x, outputs=None):
    """ONNX Runtime without its optimizer runs the operations one by one as ONNX defines them."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(outputs, {"input": x.numpy()})


@pytest.mark.parametrize("kind", ["attention", "branches"])
def test_file_computes_what_the_reference_says(kind, request):
    """Most outputs to a thousandth of a step; where a code in between lies near a half, it may be rounded otherwise."""
    package, reference = request.getfixturevalue(kind)
    x = models.inputs(100, 32, seed=5) if kind == "attention" else sentences(100, 5)
    got = run(onnx.load(package / "model.onnx"), x)[0]
    steps = np.abs(got - interpret(TensorRtArithmetic(reference), x)[0].numpy()) / read_manifest(package)["output_step"]
    assert np.median(steps) < 0.01 and (steps > 1.01).mean() < 0.05 and len(np.unique(got)) > 50


def test_attention_has_float_biases_and_says_what_stays_in_float(attention):
    proto = onnx.load(attention[0] / "model.onnx")
    assert all(tensor.data_type != onnx.TensorProto.INT32 for tensor in proto.graph.initializer)
    added = {name for node in proto.graph.node if node.op_type == "Add" for name in node.input}
    assert {f"blocks.0.attention.{part}.bias" for part in ("query", "key", "value")} <= added
    assert sum(note.endswith("multiplies activations in float") for note in read_manifest(attention[0])["notes"]) == 2


def test_a_float_weight_is_refused_behind_a_transpose_too(attention):
    proto = onnx.load(attention[0] / "model.onnx")
    node = next(node for node in proto.graph.node if node.name == "blocks.0.attention.query::weight")
    transpose = next(other for other in proto.graph.node if other.output[0] == node.input[1])
    transpose.input[0] = "w"
    proto.graph.initializer.append(numpy_helper.from_array(np.zeros((16, 16), np.float32), "w"))
    assert f"MatMul `{node.name}` has a weight that no DequantizeLinear gives, so it would run in float" in lint(proto, opset=17).violations


def test_joined_branches_are_quantized_again_on_their_grid(branches):
    proto = onnx.load(branches[0] / "model.onnx")
    concat = next(node for node in proto.graph.node if node.op_type == "Concat")
    again = next(node for node in proto.graph.node if concat.output[0] in node.input)
    head = next(node for node in proto.graph.node if node.name == "head::weight")
    assert again.op_type == "QuantizeLinear"
    proto.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in (concat.output[0], head.input[0]))
    joined, read = run(proto, sentences(100, 5), [concat.output[0], head.input[0]])
    assert np.array_equal(joined.reshape(read.shape), read) and len(np.unique(read)) > 10


def test_activations_that_stay_in_float_are_operations_of_the_parser(tmp_path):
    """LeakyReLU, ELU, hard swish and upsampling break no rule: TensorRT's parser has them."""
    layers = (torch.nn.LeakyReLU(0.1), torch.nn.ELU(), torch.nn.Hardswish(), torch.nn.Upsample(scale_factor=2))
    blocks = [block for layer in layers for block in (torch.nn.Conv2d(3, 3, 3, padding=1), layer)]
    model = torch.nn.Sequential(*blocks, torch.nn.Conv2d(3, 4, 1), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    package, _ = made(model, models.inputs(8), tmp_path / "package")
    operations = {node.op_type for node in onnx.load(package / "model.onnx").graph.node}
    assert {"LeakyRelu", "Elu", "HardSwish", "Resize"} <= operations
    assert lint(onnx.load(package / "model.onnx"), opset=17).violations == ()
