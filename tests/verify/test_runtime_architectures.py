"""The artefact answers like the integer reference on more than one shape of network."""

import export_models as models
import pytest
import torch
from torch import nn

from tsn_toolkit.models.small_cnn import small_cnn
from tsn_toolkit.quantizers.activations import calibrate_ranges
from tsn_toolkit.target import load_target

pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")


class Pooled(nn.Module):
    """Depthwise and pointwise convolutions, ReLU6, a pooled mean that is flattened before the classifier."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU6(),
            nn.Conv2d(8, 8, 3, padding=1, groups=8),
            nn.ReLU6(),
            nn.Conv2d(8, 12, 1),
        )
        self.linear = nn.Linear(12, 5)

    def forward(self, x):
        x = torch.relu(self.body(x))
        return self.linear(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))


class MaxPooled(nn.Module):
    """Max pooling, reshape into a linear layer, no norm."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(4)
        self.conv, self.hidden, self.linear = nn.Conv2d(3, 6, 3, padding=1), nn.Linear(96, 10), nn.Linear(10, 4)

    def forward(self, x):
        x = nn.functional.max_pool2d(nn.functional.relu(self.conv(x)), 2)
        return self.linear(torch.relu(self.hidden(x.flatten(1))))


@pytest.mark.parametrize("make", [Pooled, MaxPooled, lambda: small_cnn(width=4, in_channels=3)], ids=["depthwise", "max-pool", "small-cnn"])
def test_both_gates_hold(make, tmp_path):
    from tsn_toolkit.export.package import write_package
    from tsn_toolkit.verify.gates import run_gates

    task = models.extracted_of(make())
    x = models.inputs(40, seed=5)
    ranges = calibrate_ranges(task.model, task.q, task.scale, [models.inputs(64)], percentile=1.0)
    target, measured = load_target("cpu_onnxruntime"), {}

    def measure(draft, artefact):
        measured["parity"] = run_gates(draft, task, artefact.reference, target, x)
        return {}

    write_package(task, ranges, target, tmp_path / "package", example_input=x[:1], measure=measure)
    assert measured["parity"].output_steps <= 1.0
    assert measured["parity"].sqnr_db > 15
