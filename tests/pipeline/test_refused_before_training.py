"""What the network alone decides is said before anything is trained."""

import json
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


def test_a_float_target_wants_units_removed(tsn, tiny_recipe, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = tsn("run", str(tiny_recipe), "--out", "run", "--set", "targets=[cpu_torch]", "--set", "plan.units_keep=1.0")
    assert done.exit_code == 1 and "`cpu_torch` computes in float32 with all weights" in done.stderr and "plan.units_keep" in done.stderr
    assert not Path("run/store/manifest.json").exists() and "learning" not in done.stderr


def test_a_target_with_sparse_kernels_wants_their_pattern_in_the_plan(tsn, tiny_recipe, tmp_path, monkeypatch) -> None:
    pytest.importorskip("torchao", reason="torchao is not installed")
    monkeypatch.chdir(tmp_path)
    Path("nets.py").write_text(
        "from torch import nn\n\ndef wide():\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))\n"
    )
    recipe = yaml.safe_load(tiny_recipe.read_text())
    recipe |= {"model": {"factory": "nets.py:wide", "head": "auto"}, "targets": ["gpu_torch_2_4"], "plan": {"granularity": "block(4)"}}
    Path("recipe.yaml").write_text(yaml.safe_dump(recipe))
    done = tsn("run", "recipe.yaml", "--out", "run")
    message = "Target `gpu_torch_2_4` has kernels for masks of granularity '2:4', and the plan gives no layer such a mask (it has block(4))"
    assert done.exit_code == 1 and message in done.stderr
    assert not Path("run/store/manifest.json").exists() and "learning" not in done.stderr
    done = tsn("run", "recipe.yaml", "--out", "run", "--set", "plan.granularity='2:4'")
    assert done.exit_code == 0, done.stderr
    notes = [json.loads(path.read_text())["notes"][0] for path in Path("run/packages").glob("*/gpu_torch_2_4/manifest.json")]
    assert len(notes) == 3 and all(note.startswith("2:4 sparse, float16") and note.endswith(": 1, 3.") for note in notes), notes
