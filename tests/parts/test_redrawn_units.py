"""Units exchanged between tasks: the least important go, others come back fresh and change no answer."""

import functools

import numpy as np
import pytest
import torch

from tsn_toolkit.graph.trace import trace
from tsn_toolkit.graph.units import mask_units_
from tsn_toolkit.model_loading import set_head
from tsn_toolkit.models.depthwise_cifar import depthwise_cifar
from tsn_toolkit.models.small_cnn import small_cnn
from tsn_toolkit.parts.dynamic_units import choose_units, unit_importance
from tsn_toolkit.parts.kept_units import without_units
from tsn_toolkit.parts.redrawn_units import redraw_units_


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def sparse_net(factory, shape, sparsity=0.6):
    """A net with numbers as after training and zeros in its removed units; its graph and masks."""
    torch.manual_seed(0)
    model = factory()
    graph = trace(model, torch.zeros(1, *shape))
    set_head(model, graph.head, 7)
    for tensor in model.state_dict().values():
        if tensor.ndim == 1:
            tensor.uniform_(0.5, 1.5)
    masks = choose_units(model, graph, sparsity=sparsity, gradient_weight=0.0)
    mask_units_(model, graph, masks)
    return model.eval(), graph, masks


@pytest.mark.parametrize(("model", "shape"), [(small_cnn, (1, 8, 8)), (depthwise_cifar, (3, 32, 32))])
def test_what_comes_back_changes_no_answer(model, shape):
    """The answers are those of the network that has only lost units; the depthwise channels of a unit are part of what makes it."""
    factory = functools.partial(model, width=6)
    model, graph, masks = sparse_net(factory, shape)
    scores, before = unit_importance(model, graph, 0.0), {name: tensor.clone() for name, tensor in model.state_dict().items()}
    redrawn = redraw_units_(model, graph, masks, share=0.4, fresh=factory(), generator=generator())
    stay = {name: mask & redrawn[name] for name, mask in masks.items()}
    for name, mask in masks.items():
        gone, count = mask & ~redrawn[name], round(0.4 * mask.sum())
        assert gone.sum() == (redrawn[name] & ~mask).sum() == count > 0
        assert scores[name][gone].max() <= scores[name][stay[name]].min()
    alone, _ = without_units(model, graph, stay)
    together, _ = without_units(model, graph, redrawn)
    x = torch.randn(3, *shape)
    with torch.no_grad():
        torch.testing.assert_close(together(x), alone(x), rtol=1e-5, atol=1e-5)
    unmoved = {name for name, tensor in model.state_dict().items() if torch.equal(tensor, before[name])}
    assert {f"{graph.head}.bias", f"{graph.head}.weight"} <= unmoved, "outgoing weights were 0 already"


def test_what_comes_back_by_hand():
    """Rows of what makes a unit are fresh, but for columns of units that come back themselves; norms begin anew, on both sides of the addition."""
    factory = functools.partial(small_cnn, width=6, classes=4)
    model, graph, masks = sparse_net(factory, (1, 8, 8))
    fresh = factory()
    redrawn = redraw_units_(model, graph, masks, share=0.4, fresh=fresh, generator=generator())
    came = {name: np.flatnonzero(redrawn[name] & ~masks[name]) for name in masks}
    assert all(len(units) for units in came.values())
    for name, own, read in (("conv2", "conv2", "conv1"), ("conv3", "conv2", "conv2"), ("conv4", "conv4", "conv2")):
        weight, expected = model.get_submodule(name).weight.detach(), fresh.get_submodule(name).weight.detach().clone()
        expected[:, came[read]] = 0.0
        assert torch.equal(weight[came[own]], expected[came[own]])
        assert not weight[:, came[read]].any()
    assert torch.equal(model.conv1.weight[came["conv1"]], fresh.conv1.weight[came["conv1"]])
    for norm, own in ((model.bn1, "conv1"), (model.bn2, "conv2"), (model.bn3, "conv2"), (model.bn4, "conv4")):
        vectors = torch.stack([norm.weight, norm.bias, norm.running_mean, norm.running_var]).detach()
        assert vectors[:, came[own]].T.tolist() == [[1, 0, 0, 1]] * len(came[own])


def test_the_draw_is_the_generators():
    factory = functools.partial(small_cnn, width=12)
    first, again, other = (
        redraw_units_(*sparse_net(factory, (1, 8, 8)), share=0.3, fresh=factory(), generator=generator(seed)) for seed in (0, 0, 1)
    )
    assert all((first[name] == again[name]).all() for name in first)
    assert any((first[name] != other[name]).any() for name in first)


def exchanged(sparsity, share):
    """(units that there are, units that go) of the groups of 4, 8 and 8 channels."""
    factory = functools.partial(small_cnn, width=4, classes=3)
    model, graph, masks = sparse_net(factory, (1, 8, 8), sparsity)
    redrawn = redraw_units_(model, graph, masks, share=share, fresh=factory(), generator=generator())
    assert all(mask.sum() == redrawn[name].sum() for name, mask in masks.items())
    return [(int(mask.sum()), int((mask & ~redrawn[name]).sum())) for name, mask in masks.items()]


def test_one_unit_stays_and_no_more_go_than_come_back():
    assert exchanged(0.25, 1.0) == [(3, 1), (7, 1), (7, 1)], "as many as have been removed"
    assert exchanged(0.95, 1.0) == [(1, 0), (2, 1), (2, 1)], "one stays"
    assert exchanged(0.75, 0.5) == [(2, 1), (4, 2), (4, 2)]
    assert exchanged(0.75, 0.0) == [(2, 0), (4, 0), (4, 0)]
