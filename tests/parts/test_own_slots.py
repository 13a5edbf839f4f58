"""The slots that a task takes for its own are those it has moved furthest, over all layers together."""

import numpy as np
import torch
from torch import nn

from tsn_toolkit.parts.own_slots import choose_own_slots_
from tsn_toolkit.parts.subnet_weight import SubnetWeight, attach_, wrapped


def make_net(shapes, density, rule="replace"):
    """Bias-free linear layers over random full frozen views, each at its inherited weight."""
    random = np.random.default_rng(0)
    model = nn.Sequential(*(nn.Linear(fan_in, out, bias=False) for out, fan_in in shapes))
    for module, (out, fan_in) in zip(model, shapes, strict=True):
        q = torch.from_numpy(random.integers(1, 100, (out, fan_in)).astype(np.float32))
        scale = torch.from_numpy(random.uniform(0.01, 0.1, out).astype(np.float32))
        wrapper = SubnetWeight(q, torch.ones(out, fan_in, dtype=torch.bool), scale, rule=rule, density=density, bit_width=2, max_code=127)
        module.weight.data.copy_(q * scale[:, None])
        attach_(module, wrapper)
    return model


def test_total_is_what_the_densities_ask_for_and_the_largest_relative_changes_win():
    model = make_net([(6, 5), (4, 6), (3, 4)], 0.3)
    random = np.random.default_rng(1)
    changes = []
    for _, _, latent in wrapped(model):
        base = latent.detach().numpy().astype(np.float64).copy()
        latent.data += torch.from_numpy(random.normal(0, 0.5, base.shape).astype(np.float32))
        changes.append(np.abs(latent.detach().numpy() - base) / np.sqrt(np.square(base).mean()))
    choose_own_slots_(model)
    chosen = np.concatenate([wrapper.mask.numpy().reshape(-1) for _, wrapper, _ in wrapped(model)])
    ranking = np.concatenate([change.reshape(-1) for change in changes])
    assert chosen.sum() == round(0.3 * 30) + round(0.3 * 24) + round(0.3 * 12)
    assert ranking[chosen].min() > ranking[~chosen].max()


def test_a_layer_that_changed_more_owns_more():
    model = make_net([(5, 4), (5, 5)], 0.2)
    (_, first, _), (_, second, latent) = wrapped(model)
    latent.data += 10
    choose_own_slots_(model)
    assert (int(first.mask.sum()), int(second.mask.sum())) == (0, 9)


def test_layers_of_the_other_rule_keep_their_mask():
    model = make_net([(3, 3)], 0.2, rule="select")
    choose_own_slots_(model)
    assert next(wrapped(model))[1].mask.all()
