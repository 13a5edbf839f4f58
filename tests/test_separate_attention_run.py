"""A network with torch.nn.TransformerEncoder from recipe to package: heads are removed, every projection has integers, both gates pass."""

import json

import pytest

from tsn_toolkit.store.store import Store

pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")

NET = """\
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(1, 32, 2, 2)
        layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, activation="gelu", norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 10)

    def forward(self, x):
        tokens = self.patches(x).flatten(2).permute(2, 0, 1)  # (16, n, 32), torch's default order
        return self.head(self.norm(self.encoder(tokens)).mean(0))


def net():
    return Net()
"""
RECIPE = """\
schema: 1
name: encoder
model:
  factory: {net}:net
data:
  source: digits
  train_limit: 300
  test_limit: 100
tasks:
  count: 2
plan:
  units_keep: 0.5
  channel_multiple: 1
training:
  epochs: 2
  optimizer: adam
  learning_rate: 0.003
reference:
  dense: separate
targets: [cpu_onnxruntime]
bench:
  seconds: 0.02
"""


def test_from_recipe_to_package(tsn, tmp_path):
    (tmp_path / "net.py").write_text(NET, encoding="utf-8")
    (tmp_path / "encoder.yaml").write_text(RECIPE.format(net=tmp_path / "net.py"), encoding="utf-8")
    done = tsn("run", tmp_path / "encoder.yaml", "--out", tmp_path / "run", "--json")
    assert done.exit_code == 0, done.stderr
    store = Store.open(tmp_path / "run" / "store")
    task = store.entries[-1].name
    heads = store.part(task).unit_masks["encoder.layers.0.self_attn.q_proj"]
    assert heads.sum() == 2 and len(heads) == 4
    weights = store.weights(task)
    kept = heads.repeat(8)
    for projection in ("q_proj", "k_proj", "v_proj"):
        q = weights.q[f"encoder.layers.0.self_attn.{projection}"]
        assert q.shape == (32, 32) and q[kept].any() and not q[~kept].any()
    packages = sorted((tmp_path / "run" / "packages").rglob("manifest.json"))
    assert len(packages) == 2
    for manifest in packages:
        parity = json.loads(manifest.with_name("parity.json").read_text())
        assert parity["failures"] == []
        layers = {layer["name"]: layer["weight_shape"] for layer in json.loads(manifest.read_text())["layers"]}
        assert layers["encoder.layers.0.self_attn.q_proj"] == [16, 32] and layers["encoder.layers.0.self_attn.out_proj"] == [32, 16]
        verified = tsn("verify", manifest.parent)
        assert verified.exit_code == 0, verified.stderr
