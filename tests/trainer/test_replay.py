"""Replay that goes on with another network in the middle of a task."""

import learning_samples as samples
import pytest
import torch

from tsn_toolkit.parts.head_rows import HeadRows
from tsn_toolkit.parts.replay_buffer import offer
from tsn_toolkit.store.store import Store
from tsn_toolkit.trainer.device import seeded
from tsn_toolkit.trainer.replay import Replay, ReplayOptions
from tsn_toolkit.trainer.revision import SharedNetwork


@pytest.fixture
def networks():
    """Two of different weights, with the same twelve examples of an earlier task in memory."""
    data, head = samples.make_data(), HeadRows().with_task("first", (0, 1, 2), "task-incremental").with_task("second", (3, 4, 5), "task-incremental")
    memory = offer(None, data.train.x[:12], data.train.y[:12], torch.zeros(12, 0), capacity=12, seed=0).to_memory()
    models = []
    for seed in (1, 2):
        with seeded(seed):
            models.append(samples.small_cnn(width=4, classes=6).eval())
    return [SharedNetwork(model, head, data, 3, memory) for model in models]


def test_draws_go_on_where_they_were(networks, tmp_path):
    store = Store.create(tmp_path / "store", trunk=samples.trunk("seed"), graph=samples.graph(), recipe={})
    context, x = samples.make_context(store, samples.make_data()), torch.zeros(1)
    begun, alone = (Replay(network, context, ReplayOptions(replay_batch=4), labels=1.0, logits=0.0) for network in networks)
    first, second = float(alone(x).detach()), float(alone(x).detach())
    before = float(begun(x).detach())
    moved = begun.on(networks[1])
    assert float(moved(x).detach()) == second != first != before
    assert moved.examples_per_step == 4 and moved.buffer is begun.buffer
