"""What wrapped layers train with: scores at a rate of their own and without weight decay, masks refreshed when they are due."""

from dataclasses import replace

import pytest

from tsn_toolkit.parts.head_rounding import HeadRounding
from tsn_toolkit.parts.subnet_weight import wrapped
from tsn_toolkit.parts.wrapping import wrappers_of
from tsn_toolkit.trainer import fit_selected
from tsn_toolkit.trainer.context import Precision
from tsn_toolkit.trainer.fit_selected import ScoredOptions, fit_scored_, fit_selected_
from tsn_toolkit.trainer.loop import Phase, evaluate
from tsn_toolkit.trainer.training_hooks import TrainingHooks


@pytest.mark.parametrize("learn_scores", [True, False])
def test_groups_of_the_optimizer(context, model, monkeypatch, learn_scores):
    seen = {}
    monkeypatch.setattr(fit_selected, "fit", lambda *_, parameters, train_norms, **__: seen.update(groups=parameters, norms=train_norms))
    for _, wrapper, _ in wrapped(model):
        wrapper.learn_scores = learn_scores
    model.bn1.weight.requires_grad_(False)
    fit_selected_(model, context, Phase("x", 1, 0.1), context.generator(), min_gain=1e-3, score_rate=3.0)
    scores = {id(wrapper.score) for _, wrapper, _ in wrapped(model)}
    weights = {id(p) for p in model.parameters()} - scores - {id(model.bn1.weight)}
    assert {id(p) for p in seen["groups"][0]["params"]} == weights and len(scores) == 4
    rest = [(group["rate"], group["weight_decay"], {id(p) for p in group["params"]}) for group in seen["groups"][1:]]
    assert rest == ([(3.0, 0.0, scores)] if learn_scores else [])
    assert seen["norms"] is True
    fit_selected_(model, replace(context, trained_trunk=True), Phase("x", 1, 0.1), context.generator(), min_gain=1e-3)
    assert seen["norms"] is False


def test_masks_are_refreshed_every_so_many_steps(context, model, monkeypatch):
    """Three epochs of five steps, every fourth: after steps 4, 8 and 12."""
    calls = []
    monkeypatch.setattr(fit_selected, "refresh_masks_", calls.append)
    fit_scored_(model, context, ScoredOptions(refresh_every=4), name="x")
    assert calls == [model] * 3


def test_a_coarse_head_trains_through_its_rounding(context, model):
    """Its scales follow at each epoch's start, the strategy's own hook runs beside them, and what it computes with has the bits that were asked."""
    coarse, epochs, seen = replace(context, precision=Precision(head_bits=2)), [], []
    fit_scored_(model, coarse, ScoredOptions(), name="x")
    ((path, rounding, latent),) = wrappers_of(model, HeadRounding)
    assert path == "head" and len((model.head.weight / rounding.scale).round().unique()) <= 3

    def before_epoch(epoch):
        epochs.append(epoch)
        seen.append(rounding.scale.flatten().tolist())

    fit_selected_(model, coarse, Phase("x", 3, 0.3), context.generator(), min_gain=1e-3, hooks=TrainingHooks(before_epoch=before_epoch))
    assert epochs == [0, 1, 2] and seen[0] != seen[1] != seen[2]
    assert evaluate(model, context.data.validation, context.data, latent.device)[1] > 0.6


def test_a_fine_head_is_left_as_it_is(context, model):
    fit_scored_(model, context, ScoredOptions(), name="x")
    assert not list(wrappers_of(model, HeadRounding))
