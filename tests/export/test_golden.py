"""The recorded inputs lie where the task's own do, so that a changed weight is seen in the recorded outputs."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper

from tsn_toolkit.contracts import ActivationRange
from tsn_toolkit.export.golden import MAX_CLIPPED, InputRange, clipped_share, draw_inputs, input_range, record_inputs
from tsn_toolkit.export.manifest import Preprocessing, read_manifest
from tsn_toolkit.export.package import PackageOptions, write_package
from tsn_toolkit.export.processor import session_entries
from tsn_toolkit.quantizers.activations import calibrate_ranges
from tsn_toolkit.target import load_target

UNIT = InputRange((0.0,), (1.0,))
IMAGES = Preprocessing(scaling=1 / 255)
TARGET = load_target("cpu_onnxruntime")
NARROW = InputRange((0.3,), (0.6,))


@pytest.fixture(scope="module")
def package(task, tmp_path_factory):
    """Of a task whose images are uint8 without normalisation, calibrated on pale ones: standard normal inputs leave its ranges."""
    folder = tmp_path_factory.mktemp("golden") / "package"
    pale = torch.from_numpy(draw_inputs((3, 8, 8), NARROW, 64, [1]).astype(np.float32))
    ranges = calibrate_ranges(task.model, task.q, task.scale, [pale])
    write_package(task, ranges, TARGET, folder, example_input=pale[:1], options=PackageOptions(IMAGES))
    return folder


def test_recorded_outputs_differ_inside_their_limits(package):
    manifest = read_manifest(package)
    with np.load(package / "golden.npz") as golden:
        x, y = golden["x"], golden["y"]
    assert x.min() >= 0 and x.max() <= 1 and x.std() > 0.02
    assert clipped_share(y[0], manifest["output_step"]) <= MAX_CLIPPED
    assert len(np.unique(y[0], axis=0)) == len(x)
    assert manifest["recorded_inputs"][0]["low"] == [0.0] and manifest["notes"] == []


def test_flipped_bits_of_weights_change_the_recorded_outputs(package):
    """The two highest bits of 20 weights of each layer, one at a time."""
    with np.load(package / "golden.npz") as golden:
        x, y = golden["x"].astype(np.float32), golden["y"]
    proto, rng, seen = onnx.load(package / "model.onnx"), np.random.default_rng(0), []
    step = read_manifest(package)["output_step"]
    assert difference(proto, x, y) < 0.01 * step
    for tensor in [tensor for tensor in proto.graph.initializer if tensor.name.endswith(".weight")]:
        codes, name = numpy_helper.to_array(tensor).copy(), tensor.name
        for place, bit in zip(rng.choice(codes.size, 20, replace=False), [6, 7] * 10, strict=True):
            flipped = codes.copy().view(np.uint8)
            flipped.reshape(-1)[place] ^= 1 << bit
            tensor.CopyFrom(numpy_helper.from_array(flipped.view(np.int8), name))
            seen.append(difference(proto, x, y) / step)
        tensor.CopyFrom(numpy_helper.from_array(codes, name))
    assert np.mean(np.array(seen) > 0.5) >= 0.95, "seen at all: a flip moves some output by a code"
    assert np.mean(np.array(seen) > 1.001) >= 0.5, "beyond the step that `tsn verify` allows this target"


def difference(proto, x, y):
    """Largest |output - nearest recorded one| of an ONNX model."""
    options = onnxruntime.SessionOptions()
    for key, value in session_entries(TARGET.session_options_without_vnni).items():
        options.add_session_config_entry(key, value)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    got = session.run(None, {"input": x})[0]
    return min(np.abs(got - recorded).max() for recorded in y)


def test_the_range_comes_from_the_data_or_from_the_input_quantizer(task):
    normalised = Preprocessing((0.5, 0.25, 0.0), (0.25, 0.25, 0.5), 1 / 255)
    assert input_range(normalised, task, {}) == InputRange((-2.0, -1.0, 0.0), (2.0, 3.0, 2.0))
    assert input_range(IMAGES, task, {}) == UNIT
    signed, unsigned = ActivationRange(0.01, 0, True), ActivationRange(0.01, 0, False)
    assert input_range(Preprocessing(), task, {"x_quant": signed, "add_quant": unsigned}) == InputRange((-1.27,), (1.27,))
    assert input_range(Preprocessing(), task, {"conv1.input_quant": unsigned}) == InputRange((0.0,), (255 * 0.01,))
    assert input_range(Preprocessing(), task, {}) == InputRange((-3.0,), (3.0,))


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 1, 5), (2, 40), (7,)])
def test_inputs_are_seeded_varied_and_inside_their_range(shape):
    x = draw_inputs(shape, InputRange((-1.0,), (2.0,)), 12, [3])
    assert x.shape == (12, *shape) and x.dtype == np.float16 and x.min() >= -1 and x.max() <= 2
    assert np.array_equal(x, draw_inputs(shape, InputRange((-1.0,), (2.0,)), 12, [3]))
    assert not np.array_equal(x, draw_inputs(shape, InputRange((-1.0,), (2.0,)), 12, [4]))
    assert len(np.unique(x.reshape(12, -1), axis=0)) >= 9 and x.min() < -0.5 and x.max() > 1.5


def test_less_contrast_where_outputs_are_clipped():
    def answer(x):
        return np.clip(np.rint(x.numpy() * 100), -128, 127).astype(np.float32)

    wide = InputRange((-6.0,), (6.0,))
    inputs, outputs = record_inputs((10,), wide, answer, lambda found: [(found, 1.0)], count=16, seed=0)
    assert inputs.contrast < 1 and inputs.note == "" and clipped_share(outputs, 1.0) <= MAX_CLIPPED
    assert np.array_equal(outputs, answer(torch.from_numpy(inputs.x.astype(np.float32))))


def test_what_cannot_be_told_apart_is_said():
    inputs, _ = record_inputs((4,), UNIT, lambda x: np.full((len(x), 2), 127, np.float32), lambda found: [(found, 1.0)], count=5, seed=0)
    assert inputs.note == "The recorded inputs tell little: 1 different output(s) for 5, 100% of the output codes at their limits."


def test_floats_are_never_clipped():
    inputs, _ = record_inputs((4,), UNIT, lambda x: x.numpy() * 0 + np.arange(3, 7) * x.numpy(), lambda found: [(found, None)], count=5, seed=0)
    assert inputs.contrast == 1.0 and inputs.note == ""


def test_inputs_of_a_task_that_reads_texts_are_texts(task):
    span = input_range(Preprocessing((0.5,) * 4, (0.25,) * 4, 1 / 255, text_file="text.json"), task, {})
    assert span == InputRange((-2.0,) * 4, (2.0,) * 4, one_hot=True)
    x = draw_inputs((4, 9), span, 32, [0])
    assert set(np.unique(x)) == {-2.0, 2.0}
    words = (x == 2.0).sum(1)
    assert words.max() == 1 and words.sum(1).min() >= 1 and len(set(words.sum(1).tolist())) > 3
    assert (np.diff(words, axis=1) <= 0).all(), "nothing follows the end of a text"
    assert not input_range(Preprocessing(scaling=1 / 255), task, {}).one_hot
