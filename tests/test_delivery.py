"""What a delivery says of multiply-accumulates that run in float."""

import sys
from pathlib import Path

import torch
import yaml
from torch import nn

from tsn_toolkit.contracts import Split, TaskData
from tsn_toolkit.delivery import BenchSettings, deliver
from tsn_toolkit.export.integer_share import IntegerShare, share_warnings
from tsn_toolkit.export.manifest import read_manifest
from tsn_toolkit.quantizers.activations import calibrate_ranges
from tsn_toolkit.target import load_target

sys.path.insert(0, str(Path(__file__).resolve().parent / "export"))
import export_models as models  # noqa: E402


class Attention(nn.Module):
    """One head over 6 tokens of 8 values, a norm, and a classifier."""

    def __init__(self):
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(8, 8) for _ in range(3))
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, x):
        found = nn.functional.scaled_dot_product_attention(self.query(x), self.key(x), self.value(x))
        return self.head(self.norm(found).mean(1))


def target_file(folder, share):
    """`cpu_onnxruntime` with another limit, as a file of one's own."""
    content = load_target("cpu_onnxruntime").model_dump(mode="json")
    content["gates"] = {**content["gates"], "integer_share": share, "sqnr_db": 0.0, "top1_agreement": 0.0}
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump({**content, "name": "mine"}))
    return load_target(path)


def test_a_share_below_the_targets_limit_is_a_warning(tmp_path):
    task = models.extracted_of(Attention())
    x = torch.randn(40, 6, 8, generator=torch.Generator().manual_seed(1))
    split = Split(x, task.model(x).argmax(1))
    data = TaskData("task", (0, 1, 2), split, split, split)
    ranges = calibrate_ranges(task.model, task.q, task.scale, [x])
    bench = BenchSettings(batches=(1,), seconds=0.05)
    target, folder = target_file(tmp_path, 1.0), tmp_path / "package"
    done = deliver(task, ranges, target, folder, data=data, dense=task.model, bench=bench, dense_is_trained=False)
    [warning] = [text for text in done.warnings if "integer kernels; the target asks for" in text]
    integer = 3 * 6 * 8 * 8 + 8 * 3
    found = read_manifest(folder)["parity"]
    assert found["integer_mac_share"] == integer / (integer + 2 * 6 * 6 * 8)
    assert warning.startswith("67.1% of the multiply-accumulates run in integer kernels; the target asks for 100.0%. In float: ")
    assert {"a softmax has no integer kernel", "a product of two activations has no integer kernel where each layer rounds its own input"} <= set(
        found["float_reasons"]
    )
    assert sorted(entry for entries in found["float_reasons"].values() for entry in entries) == sorted(found["stays_float"])


def test_the_warning_names_the_first_operations_and_why():
    entries = ("Softmax s", *(f"Add a{number}" for number in range(7)), "Conv conv1::weight")
    assert share_warnings(IntegerShare(0.9, 9, 10, {}, entries), 0.9) == []
    [text] = share_warnings(IntegerShare(0.85, 85, 100, {}, entries), 0.9)
    assert text == (
        "85.0% of the multiply-accumulates run in integer kernels; the target asks for 90.0%. In float: Softmax s (a softmax has no integer kernel); "
        "Add a0, Add a1, Add a2, Add a3, Add a4 and 2 more (an operation between layers, whose values no quantizer rounds); "
        "Conv conv1::weight (the runtime chose its float kernel for this layer)."
    )
