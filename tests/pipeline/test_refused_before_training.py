"""What the network alone decides is said before anything is trained."""

from pathlib import Path

import pytest
import yaml

NETS = """
import torch
from torch import nn

def uneven():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(64, 10))

class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.one, self.two = nn.Linear(64, 8), nn.Linear(8, 10), nn.Linear(8, 3)

    def forward(self, x):
        x = torch.relu(self.body(x.flatten(1)))
        return self.one(x), self.two(x)
"""


@pytest.mark.parametrize(
    ("factory", "head", "message"),
    [
        ("uneven", "auto", "Target `cpu_onnxruntime` cannot take this network, so nothing is trained: The integer model cannot be written as ONNX"),
        ("Pair", "one", "the model answers with a tuple; a task is trained on one tensor of logits"),
    ],
)
def test_a_run_ends_before_it_trains(tsn, tiny_recipe, tmp_path, monkeypatch, factory, head, message) -> None:
    monkeypatch.chdir(tmp_path)
    Path("nets.py").write_text(NETS)
    recipe = yaml.safe_load(tiny_recipe.read_text())
    recipe |= {"model": {"factory": f"nets.py:{factory}", "head": head}, "targets": ["cpu_onnxruntime"]}
    Path("recipe.yaml").write_text(yaml.safe_dump(recipe))
    done = tsn("run", "recipe.yaml", "--out", "run")
    assert done.exit_code == 1 and message in done.stderr
    assert not Path("run/store/manifest.json").exists() and "learning" not in done.stderr
