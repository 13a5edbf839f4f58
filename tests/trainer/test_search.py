"""When scores are updated and masks refreshed, and at which rate."""

import pytest

from tsn_toolkit.parts.subnet_weight import wrapped
from tsn_toolkit.trainer import search
from tsn_toolkit.trainer.search import LEAST_UPDATES, SearchOptions, search_


@pytest.mark.parametrize(("every", "epochs", "expected"), [(4, 80, 4), (4, 40, 2), (3, 3, 1)])
def test_scores_learn_in_every_so_many_steps_at_a_rate_to_match(context, model, monkeypatch, every, epochs, expected):
    """Five steps per epoch: 400 and 200 steps leave room for 100 updates at every fourth and second step, 15 for none but all."""
    seen, due = {}, []

    def watch(model, context, phase, generator, *, min_gain, score_rate, hooks):
        seen.update(rate=score_rate, epochs=phase.epochs, gain=min_gain, weight=phase.label_weight)
        for step in range(5 * epochs):
            due.append(next(iter(wrapped(model)))[1].score_due)
            hooks.after_step(step)

    monkeypatch.setattr(search, "fit_selected_", watch)
    options = SearchOptions(score_every=every, score_rate=0.5, min_gain=0.25)
    search_(model, context, options, epochs, context.generator(), label_weight=0.75)
    assert seen == {"rate": 0.5 * expected**0.5, "epochs": epochs, "gain": 0.25, "weight": 0.75}
    assert due == [(step + 1) % expected == 0 for step in range(5 * epochs)]
    assert expected == 1 or sum(due) >= LEAST_UPDATES


def test_density_falls_to_the_plan_s_and_masks_are_fixed(context, model, monkeypatch):
    """Refreshed every fifth step; 20 steps, of which the descent takes half."""
    densities = []

    def watch(model, context, phase, generator, *, hooks, **_):
        for step in range(20):
            hooks.after_step(step)
            densities.append(float(dict(model.named_modules())["conv3"].parametrizations["weight"][0].mask.float().mean()))

    monkeypatch.setattr(search, "fit_selected_", watch)
    search_(model, context, SearchOptions(start_density=0.9, descent=0.5), 4, context.generator())
    assert densities[:4] == pytest.approx([0.9] * 4, abs=0.01)
    assert densities[4:9] == pytest.approx([0.4 + 0.5 * 0.5**3] * 5, abs=0.01)
    assert densities[9:] == pytest.approx([0.4] * 11, abs=0.01)
    assert not any(wrapper.learn_scores for _, wrapper, _ in wrapped(model))
