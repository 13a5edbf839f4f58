"""Units exchanged between tasks: the least important go, others come back fresh and change no answer."""

import numpy as np
import pytest
import torch

from tsn_toolkit.graph.trace import trace
from tsn_toolkit.graph.units import mask_units_
from tsn_toolkit.model_loading import set_head
from tsn_toolkit.models.depthwise_cifar import depthwise_cifar
from tsn_toolkit.models.small_cnn import small_cnn
from tsn_toolkit.parts.dynamic_units import choose_units, kept_count, redraw_units_, unit_importance
from tsn_toolkit.parts.kept_units import without_units


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def sparse_net(factory, shape, sparsity=0.6):
    """A net with numbers as after training and zeros in its removed units; its graph and masks."""
    torch.manual_seed(0)
    model = factory()
    graph = trace(model, torch.zeros(1, *shape))
    set_head(model, graph.head, 7)
    for name, tensor in model.state_dict().items():
        if tensor.ndim == 1:
            tensor.uniform_(0.5, 1.5)
    masks = choose_units(model, graph, sparsity=sparsity, gradient_weight=0.0)
    mask_units_(model, graph, masks)
    return model.eval(), graph, masks


@pytest.mark.parametrize(("factory", "shape"), [(lambda: small_cnn(width=6, classes=4), (1, 8, 8)), (lambda: depthwise_cifar(width=6), (3, 32, 32))])
def test_what_comes_back_is_fresh_and_changes_no_answer(factory, shape):
    """The answers are those of the network that has only lost units; the depthwise channels of a unit are part of what makes it."""
    model, graph, masks = sparse_net(factory, shape)
    scores, before = unit_importance(model, graph, 0.0), {name: tensor.clone() for name, tensor in model.state_dict().items()}
    fresh = factory()
    redrawn = redraw_units_(model, graph, masks, share=0.4, fresh=fresh, generator=generator())
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
    came = np.flatnonzero(redrawn["conv2"] & ~masks["conv2"]) if "conv2" in masks else []
    for unit in came:
        columns = np.flatnonzero(~(redrawn["conv1"] & ~masks["conv1"]))
        assert torch.equal(model.conv2.weight[unit, columns], fresh.conv2.weight[unit, columns])
        assert not model.conv3.weight[:, unit].any() and not model.conv4.weight[:, unit].any()
        assert [float(getattr(model.bn3, key)[unit]) for key in ("weight", "bias", "running_mean", "running_var")] == [1, 0, 0, 1]
    unmoved = {name for name, tensor in model.state_dict().items() if torch.equal(tensor, before[name])}
    assert {f"{graph.head}.bias"} <= unmoved and f"{graph.head}.weight" in unmoved, "outgoing weights were 0 already"


def test_the_draw_is_the_generators():
    masks = [redraw_units_(*sparse_net(lambda: small_cnn(width=12), (1, 8, 8)), share=0.3, fresh=small_cnn(width=12), generator=generator(seed)) for seed in (0, 0, 1)]
    same = [all((masks[0][name] == other[name]).all() for name in masks[0]) for other in masks[1:]]
    assert same == [True, False]


def test_one_unit_stays_and_no_more_go_than_come_back():
    model, graph, masks = sparse_net(lambda: small_cnn(width=4, classes=3), (1, 8, 8), sparsity=0.25)
    assert {name: int(mask.sum()) for name, mask in masks.items()} == {name: kept_count(size, 0.25) for name, size in (("conv1", 4), ("conv2", 8), ("conv4", 8))}
    redrawn = redraw_units_(model, graph, masks, share=1.0, fresh=small_cnn(width=4, classes=3), generator=generator())
    assert {name: int((mask & ~redrawn[name]).sum()) for name, mask in masks.items()} == {"conv1": 1, "conv2": 1, "conv4": 1}
    model, graph, masks = sparse_net(lambda: small_cnn(width=4, classes=3), (1, 8, 8), sparsity=0.95)
    redrawn = redraw_units_(model, graph, masks, share=1.0, fresh=small_cnn(width=4, classes=3), generator=generator())
    assert int(masks["conv1"].sum()) == 1 and (masks["conv1"] == redrawn["conv1"]).all()
    assert (masks["conv2"] & redrawn["conv2"]).sum() == 1
    still = redraw_units_(model, graph, masks, share=0.0, fresh=small_cnn(width=4, classes=3), generator=generator())
    assert all((still[name] == masks[name]).all() for name in masks)
