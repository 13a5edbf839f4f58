"""`er`, `der` and `derpp`: the loss of one step, worked out from the network's logits and the one example in the buffer."""

import copy
from dataclasses import replace

import learning_samples as samples
import numpy as np
import pytest
import torch

from tsn_toolkit.data.normalisation import normalise
from tsn_toolkit.store.store import Store
from tsn_toolkit.trainer import loop

ONE = {"buffer": 1, "replay_batch": 3}
FACTORS = {"er": ({"replay_weight": 0.7}, 0.7, 0.0), "der": ({"alpha": 0.25}, 0.0, 0.25), "derpp": ({"beta": 0.7, "alpha": 0.25}, 0.7, 0.25)}
"""Options, and the factors that labels and logits then have."""


@pytest.mark.parametrize("strategy", FACTORS)
def test_the_loss_of_one_step(strategy, tmp_path, monkeypatch):
    store = Store.create(tmp_path / "store", trunk=samples.trunk("seed"), graph=samples.graph(), recipe={})
    store.commit(samples.learn(strategy, samples.make_context(store, samples.make_data(), epochs=1), **ONE), {})
    memory, seen, real = dict(store.revision("first").memory), [], loop._plain_gradients
    if "logits" in memory:
        memory["logits"] = np.array([[1.0, -2.0, 3.0]], np.float16)  # far from what the network answers now

    def watch(model, x, y, *rest):
        before = copy.deepcopy(model)
        found = real(model, x, y, *rest)
        seen.append((before, x, y, found[0]))
        return found

    monkeypatch.setattr(loop, "_plain_gradients", watch)
    data = samples.make_data("second", (5, 3, 4), train=32)
    context = samples.make_context(store, data, parent="first", revision=replace(store.revision("first"), memory=memory), epochs=1)
    options, labels, logits = FACTORS[strategy]
    samples.learn(strategy, context, **ONE, **options)
    ((model, x, y, loss),) = seen
    with torch.no_grad():
        current = model(x)[:, 3:].log_softmax(1)[range(32), y - 3]
        replayed = model(normalise(torch.from_numpy(memory["x"]).expand(3, -1, -1, -1), data.mean, data.std))[0, :3]
    expected = -current.mean()
    if labels:
        expected = expected - labels * replayed.log_softmax(0)[int(memory["rows"][0])]
    if logits:
        expected = expected + logits * (replayed - torch.from_numpy(memory["logits"][0]).float()).square().mean()
    assert loss == pytest.approx(float(expected), rel=1e-5) and abs(loss + float(current.mean())) > 0.1
