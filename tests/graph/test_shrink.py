"""Random units at random ratios: the shrunk model computes what the masked one computes, on many architectures."""

import copy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tsn_toolkit.errors import GraphError
from tsn_toolkit.graph import mask_units_, prove_equal, shrink, trace
from tsn_toolkit.graph.probe import randomise_
from tsn_toolkit.models.resnet_cifar import resnet
from tsn_toolkit.models.small_cnn import small_cnn
from tsn_toolkit.plan import macs_after

sys.path.insert(0, str(Path(__file__).parent))
import graph_models as zoo  # noqa: E402

IMAGE = (3, 8, 8)
CASES = {
    "plain": (zoo.Plain, IMAGE),
    "residual": (zoo.Residual, IMAGE),
    "depthwise": (zoo.Depthwise, IMAGE),
    "concat": (zoo.Concat, IMAGE),
    "grouped": (zoo.Grouped, IMAGE),
    "squeeze_excite": (zoo.SqueezeExcite, IMAGE),
    "chunk_add": (zoo.ChunkAdd, IMAGE),
    "skip_input": (zoo.SkipInput, IMAGE),
    "layer_norm": (zoo.LayerNormed, (6,)),
    "casting": (zoo.Casting, (6,)),
    "attention": (zoo.Attention, (5, 8)),
    "small_cnn": (lambda: small_cnn(width=6), (1, 8, 8)),
    "resnet": (lambda: resnet(8), (3, 32, 32)),
}
GRAPHS = {}


def random_model(name):
    """The model with random statistics, affine parameters and biases, its graph, and its input shape; traced once."""
    build, shape = CASES[name]
    if name not in GRAPHS:
        model = build().eval()
        GRAPHS[name] = (model, trace(model, torch.randn(2, *shape)))
    model, graph = GRAPHS[name]
    model = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for key, tensor in (*model.named_parameters(), *model.named_buffers()):
            randomise_(key, tensor, generator)
    return model, graph, shape


def random_masks(graph, seed):
    """Every unfrozen group loses a random share of its units; at least one stays."""
    random = np.random.default_rng(seed)
    masks = {}
    for group in graph.groups:
        if not group.frozen:
            masks[group.name] = random.random(group.size) < random.uniform(0.2, 0.9)
            masks[group.name][random.integers(group.size)] = True
    return masks


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", CASES)
def test_masked_equals_shrunk(name, seed):
    model, graph, shape = random_model(name)
    masks = random_masks(graph, seed)
    masked = copy.deepcopy(model)
    mask_units_(masked, graph, masks)
    small = shrink(model, graph, masks)
    x = torch.randn(4, *shape, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        expected, found = masked(x), small.model(x)
    assert (expected - found).abs().max() <= 1e-5 * expected.abs().max()
    assert prove_equal(masked, small.model, shape, seed=seed) <= 1e-5

    full, state = model.state_dict(), small.model.state_dict()
    assert set(small.slots) == set(state)
    for key, slots in small.slots.items():
        assert slots.dtype == torch.int64 and torch.equal(full[key].flatten()[slots], state[key]), key
    assert sum(p.numel() for p in small.model.parameters()) < sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", [name for name in CASES if name != "attention"])
def test_macs_after_is_what_a_shrunk_model_really_costs(name):
    model, graph, shape = random_model(name)
    x = torch.zeros(1, *shape)
    for masks in ({}, random_masks(graph, 3)):
        small = shrink(model, graph, masks).model
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            small(x)
        assert 2 * macs_after(graph, masks) == counter.get_total_flops()


@pytest.mark.parametrize("name", [name for name in CASES if name not in {"skip_input", "layer_norm", "attention"}])
def test_every_group_may_lose_units(name):
    """All-frozen does not pass: no group of these models is frozen."""
    _, graph, _ = random_model(name)
    assert [group.name for group in graph.groups if group.frozen] == []


def test_dead_units_may_hold_anything():
    model, graph, shape = random_model("plain")
    masks = random_masks(graph, 1)
    masked = copy.deepcopy(model)
    mask_units_(masked, graph, masks)
    a, b = shrink(model, graph, masks).model.state_dict(), shrink(masked, graph, masks).model.state_dict()
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_by_hand():
    """Unit 1 of conv1 goes: row 1 of its tensors and column 1 of conv2."""
    model, graph, _ = random_model("plain")
    mask = np.ones(8, dtype=bool)
    mask[1] = False
    small = shrink(model, graph, {"conv1": mask}).model
    keep = [0, 2, 3, 4, 5, 6, 7]
    assert torch.equal(small.conv1.weight, model.conv1.weight[keep])
    assert torch.equal(small.bn1.running_var, model.bn1.running_var[keep])
    assert torch.equal(small.conv2.weight, model.conv2.weight[:, keep])
    assert (small.conv1.out_channels, small.bn1.num_features, small.conv2.in_channels) == (7, 7, 7)
    masked = copy.deepcopy(model)
    mask_units_(masked, graph, {"conv1": mask})
    assert [masked.state_dict()[f"bn1.{name}"][1].item() for name in ("weight", "running_mean", "running_var")] == [0, 0, 1]
    assert not masked.conv1.weight[1].any() and not masked.conv2.weight[:, 1].any()
    assert torch.equal(masked.conv1.weight[keep], model.conv1.weight[keep])


@pytest.mark.parametrize("name", ["plain", "residual", "depthwise", "squeeze_excite", "small_cnn", "resnet"])
def test_a_dead_unit_gives_exactly_zero(name):
    """Behind every producer and the norm that follows it, before anybody reads it."""
    model, graph, shape = random_model(name)
    masks = random_masks(graph, 4)
    mask_units_(model, graph, masks)
    seen = {}
    points = {(group.name, graph.layer(layer).norm or layer) for group in graph.groups for layer in group.producers}
    for point in points:
        model.get_submodule(point[1]).register_forward_hook(lambda module, inputs, output, point=point: seen.update({point: output.clone()}))
    with torch.no_grad():
        model(torch.randn(2, *shape))
    assert set(seen) == points
    for (group, _), output in seen.items():
        assert not output[:, ~torch.from_numpy(masks[group])].any() and output.any()
    for group, path in points:
        norm = model.get_submodule(path)
        if hasattr(norm, "running_var"):
            assert (norm.running_var[~torch.from_numpy(masks[group])] == 1).all()


def test_flatten_takes_the_right_columns():
    model, graph, _ = random_model("plain")
    mask = np.array([True, False, True, True, True, True])
    small = shrink(model, graph, {"conv2": mask})
    columns = [*range(16), *range(32, 96)]
    assert torch.equal(small.model.fc1.weight, model.fc1.weight[:, columns])
    assert small.slots["fc1.weight"][1].tolist() == [96 + column for column in columns]


def test_a_replaced_head_is_kept_whole():
    model, graph, shape = random_model("resnet")
    model.linear = torch.nn.Linear(256, 7)
    masks = random_masks(graph, 0)
    small = shrink(model, graph, masks).model
    assert small.linear.out_features == 7
    mask_units_(model, graph, masks)
    assert prove_equal(model, small, shape, seed=0) <= 1e-5


def test_shrink_leaves_its_argument_alone():
    model, graph, shape = random_model("residual")
    model.train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    small = shrink(model, graph, random_masks(graph, 0)).model
    assert model.training and not small.training
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    small.stem.weight.data.zero_()
    assert model.stem.weight.any()


@pytest.mark.parametrize(
    ("name", "masks", "message"),
    [
        ("plain", {"conv1": np.zeros(8, dtype=bool)}, "keeps 0 of 8 units"),
        ("plain", {"conv1": np.ones(7, dtype=bool)}, r"got bool \(7,\)"),
        ("plain", {"conv1": np.ones(8)}, "got float64"),
        ("plain", {"conv11": np.ones(8, dtype=bool)}, "`conv11`.*did you mean `conv1`"),
        ("layer_norm", {"fc1": np.arange(8) > 0}, "`fc1` is frozen.*got 1 dead"),
    ],
)
def test_wrong_masks(name, masks, message):
    model, graph, _ = random_model(name)
    for apply in (shrink, mask_units_):
        with pytest.raises(GraphError, match=message):
            apply(model, graph, masks)


def test_a_model_of_another_shape_is_refused():
    _, graph, _ = random_model("plain")
    other = zoo.Plain()
    other.conv1 = torch.nn.Conv2d(3, 9, 3)
    with pytest.raises(GraphError, match="`conv1.bias` must have 8 entries"):
        shrink(other, graph, {"conv1": np.arange(8) > 0})


def test_a_model_without_values_is_refused():
    _, graph, _ = random_model("plain")
    with torch.device("meta"):
        model = zoo.Plain()
    with pytest.raises(GraphError, match="`conv1.weight` has no values"):
        shrink(model, graph, {})
