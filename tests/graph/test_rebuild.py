"""A pruned model comes back from a plan and safetensors, in the user's own class and in another process."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_model, save_model

from tsn_toolkit.errors import GraphError
from tsn_toolkit.graph import plan_of, rebuild, shrink, trace

sys.path.insert(0, str(Path(__file__).parent))
import architecture_models as zoo  # noqa: E402
import graph_models  # noqa: E402
from removal import random_masks, randomised_copy  # noqa: E402

FACTORIES = {
    "residual": (graph_models.Residual, torch.zeros(1, 3, 8, 8)),
    "fused": (lambda: zoo.Transformer(zoo.Fused), torch.zeros(1, 6, 8)),
    "multihead_attention": (lambda: zoo.Transformer(zoo.Torch), torch.zeros(1, 6, 8)),
    "tied": (zoo.GatedTokens, torch.zeros(1, 5, dtype=torch.int64)),
}
PROGRAM = """
import json, sys
import torch
from safetensors.torch import load_model
sys.path.insert(0, sys.argv[1])
from test_rebuild import FACTORIES
from tsn_toolkit.graph import rebuild, trace
factory, example = FACTORIES[sys.argv[2]]
folder = sys.argv[3]
model = rebuild(factory, trace(factory(), example), json.load(open(folder + "/plan.json")))
missing, unexpected = load_model(model, folder + "/model.safetensors", strict=True)
assert not missing and not unexpected
given = torch.load(folder + "/answers.pt")
with torch.no_grad():
    assert torch.equal(model(given["x"]), given["y"])
print("shapes", [list(p.shape) for p in model.parameters()])
"""


@pytest.mark.parametrize("name", FACTORIES)
def test_in_a_fresh_process(name, tmp_path):
    factory, example = FACTORIES[name]
    model = randomised_copy(factory())
    graph = trace(model, example)
    masks = random_masks(graph, 0)
    small = shrink(model, graph, masks).model
    x = torch.randint(0, 13, (2, 5)) if example.dtype == torch.int64 else torch.randn(2, *example.shape[1:])
    with torch.no_grad():
        torch.save({"x": x, "y": small(x)}, tmp_path / "answers.pt")
    (tmp_path / "plan.json").write_text(json.dumps(plan_of(graph, masks)))
    save_model(small, str(tmp_path / "model.safetensors"))
    command = [sys.executable, "-c", PROGRAM, str(Path(__file__).parent), name, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert f"shapes {[list(p.shape) for p in small.parameters()]}" in done.stdout
    assert any(a.shape != b.shape for a, b in zip(small.parameters(), model.parameters(), strict=True))


def test_plan_by_hand():
    graph = trace(graph_models.Plain(), torch.zeros(1, 3, 8, 8))
    plan = plan_of(graph, {"conv2": np.array([True, False, True, True, False, True]), "fc1": np.ones(12, dtype=bool)})
    assert plan == {"fingerprint": graph.fingerprint, "groups": {"conv2": {"size": 6, "dead": [1, 4]}}}
    model = rebuild(graph_models.Plain, graph, plan)
    assert model.conv2.out_channels == 4 and model.fc1.in_features == 64 and model.fc1.out_features == 12


def test_a_state_of_other_shapes_is_refused(tmp_path):
    factory, example = FACTORIES["residual"]
    graph = trace(factory(), example)
    save_model(factory(), str(tmp_path / "full.safetensors"))
    with pytest.raises(RuntimeError, match="size mismatch"):
        load_model(rebuild(factory, graph, plan_of(graph, random_masks(graph, 1))), str(tmp_path / "full.safetensors"))


def test_wrong_plans():
    graph = trace(graph_models.Plain(), torch.zeros(1, 3, 8, 8))
    plan = {"fingerprint": graph.fingerprint, "groups": {"conv2": {"size": 6, "dead": [6]}}}
    with pytest.raises(GraphError, match=r"`conv2` must be in 0\.\.5, got 6"):
        rebuild(graph_models.Plain, graph, plan)
    with pytest.raises(GraphError, match="fingerprint 0123"):
        rebuild(graph_models.Plain, graph, {**plan, "fingerprint": "0123"})
    with pytest.raises(GraphError, match="keeps 0 of 6"):
        rebuild(graph_models.Plain, graph, {**plan, "groups": {"conv2": {"size": 6, "dead": [0, 1, 2, 3, 4, 5]}}})
    with pytest.raises(GraphError, match="The factory makes another model"):
        rebuild(graph_models.Residual, graph, {**plan, "groups": {}})
