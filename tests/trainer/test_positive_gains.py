"""Gains of norms that fold are clamped after each step; what the strategy asked for stays."""

import learning_samples as samples
import torch

from tsn_toolkit.parts.gains import foldable_norms
from tsn_toolkit.trainer.positive_gains import with_positive_gains
from tsn_toolkit.trainer.training_hooks import PLAIN, TrainingHooks


def test_gains_are_clamped_before_the_strategys_own_hook_sees_them():
    model, seen = samples.factory(), []
    gains = [model.get_submodule(name).weight for name in foldable_norms(samples.graph())]
    own = TrainingHooks(extra_loss=torch.sum, after_step=lambda step: seen.append((step, min(float(gain.detach().min()) for gain in gains))))
    hooks = with_positive_gains(own, model, samples.graph(), 0.25)
    for gain in gains:
        gain.data[0], gain.data[1] = -3.0, 2.0
    hooks.after_step(7)
    assert seen == [(7, 0.25)] and hooks.extra_loss is torch.sum
    assert len(gains) > 1 and all(gain[:2].tolist() == [0.25, 2.0] for gain in gains)


def test_plain_training_gets_the_clamp_alone():
    model = samples.factory()
    model.bn1.weight.data.fill_(-1.0)
    with_positive_gains(PLAIN, model, samples.graph(), 0.5).after_step(0)
    assert model.bn1.weight.tolist() == [0.5] * 4 and PLAIN.after_step is None
