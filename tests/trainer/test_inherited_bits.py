"""Inherited integers stay bit-identical whatever the optimizer does, and so does what a layer computes from them."""

from dataclasses import replace

import learning_samples as samples
import numpy as np
import pytest
import torch

from tsn_toolkit.parts.finish import to_integers_
from tsn_toolkit.parts.subnet_weight import SubnetWeight, wrapped
from tsn_toolkit.parts.wrapping import attach_
from tsn_toolkit.trainer.loop import Phase, fit

LAYERS = ("conv1", "conv2", "conv3", "conv4")


def wrapped_net(rule):
    """The pristine net over random frozen views, half of the slots masked; frozen views by layer."""
    random, model, frozen = np.random.default_rng(0), samples.factory(), {}
    for name in LAYERS:
        module = model.get_submodule(name)
        shape = tuple(module.weight.shape)
        present = np.ones(shape, bool) if rule == "replace" else random.random(shape) < 0.5
        q = np.where(present, random.integers(-127, 128, shape), 0).astype(np.float32)
        scale = random.uniform(0.0005, 0.002, shape[0]).astype(np.float16).astype(np.float32)
        wrapper = SubnetWeight(
            torch.from_numpy(q), torch.from_numpy(present), torch.from_numpy(scale), rule=rule, density=0.5, bit_width=3, max_code=127
        )
        wrapper.mask.copy_(torch.from_numpy(random.random(shape) < 0.5))
        wrapper.score.data.copy_(torch.from_numpy(random.random(shape).astype(np.float32)))
        attach_(module, wrapper)
        mask = wrapper.mask.numpy()
        frozen[name] = (q * scale.reshape(-1, 1, 1, 1), present & ~mask if rule == "replace" else present & mask)
    return model, frozen


@pytest.mark.parametrize("rule", ["select", "replace"])
@pytest.mark.parametrize(
    "changes",
    [
        {"weight_decay": 0.2},
        {"momentum": 0.99, "weight_decay": 0.05},
        {"optimizer": "adam", "weight_decay": 0.5},
        {"label_smoothing": 0.3, "weight_decay": 0.1},
        {"dtype": torch.bfloat16, "weight_decay": 0.1, "batch_size": 64},
    ],
    ids=["decay", "momentum", "adam", "smoothing", "autocast"],
)
def test_inherited_bits_do_not_move(rule, changes):
    model, frozen = wrapped_net(rule)
    before = {name: wrapper.inherited_q.clone() for name, wrapper, _ in wrapped(model)}
    started = {name: (latent.detach().clone(), wrapper.score.detach().clone()) for name, wrapper, latent in wrapped(model)}
    for _, wrapper, latent in wrapped(model):
        wrapper.learn_scores = True
        wrapper.fix_scale_(latent)
        wrapper.fit_codebook_(latent)
    data = samples.make_data(train=128)
    fit(
        model,
        data,
        Phase("codes", 2, 0.1),
        replace(samples.SETTINGS, **changes),
        parameters=[{"params": list(model.parameters())}],
        generator=torch.Generator().manual_seed(0),
    )
    for name, wrapper, latent in wrapped(model):
        wrapper.learn_scores = False
        values, inherited = frozen[name]
        assert torch.equal(wrapper.inherited_q, before[name])
        assert not torch.equal(latent, started[name][0]) and not torch.equal(wrapper.score, started[name][1]), "nothing was trained"
        np.testing.assert_array_equal(model.get_submodule(name).weight.detach().numpy()[inherited], values[inherited])
    integers = to_integers_(model, samples.graph(), {})
    for name in LAYERS:
        inherited = frozen[name][1]
        assert inherited.any() and (integers.owned[name].states[inherited] == 1).all()
        np.testing.assert_array_equal(integers.q[name][inherited], before[name].numpy()[inherited])


def test_an_update_of_a_latent_weight_outside_the_mask_changes_nothing():
    model, frozen = wrapped_net("replace")
    x = torch.randn(4, *samples.IMAGE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = model(x)
        for name, _, latent in wrapped(model):
            latent[torch.from_numpy(frozen[name][1])] += 100
        assert torch.equal(model(x), before)
        next(wrapped(model))[2].add_(100)
        assert not torch.equal(model(x), before)


def test_inherited_bits_are_no_parameters():
    model, _ = wrapped_net("select")
    names = {name.rpartition(".")[2] for name, _ in model.named_parameters() if "parametrizations" in name}
    assert names == {"original", "score"}
    assert all(not buffer.requires_grad for buffer in model.buffers())
