"""Operations between layers that users' networks have: slices, gates, padding, joins, poolings. A runtime computes them, or says which it cannot."""

import export_models as models
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tsn_toolkit.errors import ExportError
from tsn_toolkit.export import integer_onnx, tensorrt
from tsn_toolkit.export import onnxruntime as runtime
from tsn_toolkit.export.artefact import ExportRequest
from tsn_toolkit.export.c.lowering import lower
from tsn_toolkit.export.decomposed_graph import DecomposedGraph
from tsn_toolkit.export.integer_interpreter import interpret
from tsn_toolkit.export.onnxruntime_arithmetic import OnnxRuntimeArithmetic
from tsn_toolkit.export.tensorrt_rules import lint
from tsn_toolkit.quantizers.activations import build_integer_model, calibrate_ranges
from tsn_toolkit.target import load_target


class Between(nn.Module):
    """Two convolutions, something between them, a mean over rows and columns, and a head."""

    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(channels, 8, 3, padding=1)
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.second(self.between(torch.relu(self.first(x)), x)))
        return self.head(x.mean(dim=-1).mean(dim=-1))

    def between(self, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        return x


class Sliced(Between):
    """What a causal network cuts off its end."""

    def between(self, x, image):
        return x[:, :, :-1].contiguous()


class Parted(Between):
    """Halves that change places, by chunk and by split."""

    def between(self, x, image):
        first, second = x.chunk(2, dim=1)
        third, _ = torch.split(x, [4, 4], 1)
        return torch.cat((second, first), 1) + torch.cat((third, third), 1)


class Padded(Between):
    """Zeros on two sides."""

    def between(self, x, image):
        return F.pad(x, (1, 0, 2, 0))


class Shuffled(Between):
    """Channels in another order."""

    def between(self, x, image):
        n, channels, rows, columns = x.size()
        return x.view(n, 2, channels // 2, rows, columns).transpose(1, 2).contiguous().view(n, channels, rows, columns)


class Gated(Between):
    """Channels times a sigmoid of their means."""

    def __init__(self):
        super().__init__()
        self.squeeze, self.excite, self.gate = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1), nn.Sigmoid()

    def between(self, x, image):
        return x * self.gate(self.excite(torch.relu(self.squeeze(F.adaptive_avg_pool2d(x, 1)))))


class Joined(Between):
    """What a ReLU gives beside what may be negative, on one grid."""

    def __init__(self):
        super().__init__(16)
        self.side = nn.Conv2d(3, 8, 1)

    def between(self, x, image):
        return torch.cat((x, self.side(image)), 1)


class Largest(Between):
    """Largest values of windows that fit."""

    def between(self, x, image):
        return F.max_pool2d(x, 2)


def calibrated(model, size=8):
    """(task, ranges, reference) of a network with random codes."""
    task = models.with_smaller_codes(models.extracted_of(model))
    ranges = calibrate_ranges(task.model, task.q, task.scale, [models.inputs(16, size)])
    return task, ranges, build_integer_model(task.model, task.q, task.scale, models.inputs(1, size), ranges=ranges)


def run(file, x):
    """The file in ONNX Runtime as a package is run."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    for entry, value in runtime.session_options(load_target("cpu_onnxruntime").session_options_without_vnni).items():
        options.add_session_config_entry(entry, value)
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"]).run(None, {"input": x.numpy()})[0]


@pytest.mark.parametrize("kind", [Sliced, Parted, Padded, Shuffled, Gated, Joined, Largest])
def test_file_and_reference_agree(kind, tmp_path):
    task, ranges, reference = calibrated(kind())
    assert reference.mode == "graph", reference.notes
    x = models.inputs(40, seed=5)
    artefact = runtime.export(ExportRequest(task, ranges, load_target("cpu_onnxruntime"), x[:1]), tmp_path)
    expected = interpret(OnnxRuntimeArithmetic(reference), x)[0].numpy()
    step = artefact.output_step
    assert np.abs(run(tmp_path / "model.onnx", x) - expected).max() <= 0.01 * step
    with torch.no_grad():
        exact, decomposed = task.model(x).numpy(), DecomposedGraph(reference).eval()(x).numpy()
    assert np.abs(decomposed - expected).max() <= 2 * step
    assert np.square(exact - expected).sum() <= 5e-3 * np.square(exact).sum()  # 23 dB


@pytest.mark.parametrize("kind", [Sliced, Parted, Padded, Shuffled, Joined, Largest])
def test_layers_behind_what_moves_codes_read_codes(kind, tmp_path):
    """As TensorRT's linter wants every layer to."""
    task, ranges, _ = calibrated(kind())
    target = load_target("gpu_tensorrt")
    tensorrt.export(ExportRequest(task, ranges, target, models.inputs(1)), tmp_path)
    assert lint(onnx.load(tmp_path / "model.onnx"), opset=17).violations == ()


@pytest.mark.parametrize(
    ("kind", "message"),
    [(Gated, r"`mul` \(mul\) has no integer rule in C"), (Joined, r"is a ReLU that is joined with values below 0"), (Sliced, "`getitem`")],
)
def test_what_c_cannot_compute_is_refused(kind, message):
    _, _, reference = calibrated(kind())
    with pytest.raises(ExportError, match=message):
        lower(reference, (3, 8, 8))


def network(*between):
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding="same"), nn.ReLU(), *between, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))


def test_padding_by_name_and_windows_that_fit_are_plain_in_c():
    pools = (nn.MaxPool2d(2, 2, ceil_mode=True), nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False))
    _, _, reference = calibrated(network(*pools))
    program = lower(reference, (3, 8, 8))
    assert [operation.target.shape for operation in program.operations][:3] == [(8, 8, 8), (8, 4, 4), (8, 2, 2)]


def test_an_average_whose_windows_do_not_fit_is_refused_where_the_kernel_is_wrong(tmp_path):
    task, ranges, _ = calibrated(network(nn.AvgPool2d(3, 2, ceil_mode=True)))
    with pytest.raises(ExportError, match=r"Average pooling `.*` rounds its output size up"):
        runtime.export(ExportRequest(task, ranges, load_target("cpu_onnxruntime"), models.inputs(1)), tmp_path)


def test_what_torch_cannot_write_is_one_sentence_and_nothing_on_stdout(tmp_path, capfd):
    task, ranges, _ = calibrated(network(nn.AdaptiveAvgPool2d(3), nn.Conv2d(8, 8, 1)))
    with pytest.raises(ExportError, match="cannot be written as ONNX: .*output size that are not factor of input size") as caught:
        integer_onnx.export(ExportRequest(task, ranges, load_target("cpu_openvino"), models.inputs(1)), tmp_path)
    assert "\n" not in str(caught.value) and capfd.readouterr().out == ""
