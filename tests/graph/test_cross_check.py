"""torch-pruning, which finds couplings in another way, removes the same numbers where it can be relied on: convolutional networks."""

import copy
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from tsn_toolkit.graph import shrink, trace
from tsn_toolkit.models.resnet_cifar import resnet

sys.path.insert(0, str(Path(__file__).parent))
import architecture_models as more  # noqa: E402
import graph_models as zoo  # noqa: E402
from removal import randomised_copy  # noqa: E402

torch_pruning = pytest.importorskip("torch_pruning")
IMAGE = torch.zeros(1, 3, 8, 8)
CASES = {
    "plain": (zoo.Plain, IMAGE),
    "residual": (zoo.Residual, IMAGE),
    "depthwise": (zoo.Depthwise, IMAGE),
    "concat": (zoo.Concat, IMAGE),
    "squeeze_excite": (zoo.SqueezeExcite, IMAGE),
    "dense_block": (more.DenseBlock, IMAGE),
    "one_dimensional": (more.OneDimensional, torch.zeros(1, 4, 8)),
    "resnet": (lambda: resnet(8), torch.zeros(1, 3, 32, 32)),
}


@pytest.mark.parametrize("name", CASES)
def test_the_same_numbers_go(name):
    build, example = CASES[name]
    model = randomised_copy(build())
    graph = trace(model, example)
    assert graph.groups and not any(group.frozen for group in graph.groups)
    for group in graph.groups:
        mask = np.ones(group.size, dtype=bool)
        mask[[0, group.size - 1]] = False
        ours = shrink(model, graph, {group.name: mask}).model.state_dict()
        other = copy.deepcopy(model)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dependencies = torch_pruning.DependencyGraph().build_dependency(other, (example,), verbose=False)
            layer = other.get_submodule(group.name)
            remove = dependencies.get_pruner_of_module(layer).prune_out_channels
            dependencies.get_pruning_group(layer, remove, np.flatnonzero(~mask).tolist()).prune()
        theirs = other.state_dict()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours), group.name
