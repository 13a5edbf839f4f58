"""The dense networks that every task is compared with."""

import copy
import dataclasses

import learning_samples as samples
import pytest
import torch

from tsn_toolkit.store.store import Store
from tsn_toolkit.trainer.dense import restrict_head, train_dense
from tsn_toolkit.trainer.loop import evaluate


@pytest.fixture
def context(tmp_path):
    store = Store.create(tmp_path / "store", trunk=samples.trunk("seed"), graph=samples.graph(), recipe={})
    return samples.make_context(store, samples.make_data(classes=(3, 1)), epochs=3)


def test_train_dense_learns_the_task_the_same_way_every_time(context):
    before = torch.get_rng_state()
    model = train_dense(context)
    assert torch.equal(torch.get_rng_state(), before)
    assert model.head.weight.shape == (2, 32) and not model.training
    assert evaluate(model, context.data.test, context.data, samples.CPU)[1] >= 0.8
    again = train_dense(context)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())


def test_a_start_gives_every_weight_but_the_head(context):
    start = {name: tensor + 0.25 for name, tensor in samples.trained_net().state_dict().items() if tensor.is_floating_point()}
    standing_still = dataclasses.replace(context, learning_rate=1e-12, settings=dataclasses.replace(context.settings, weight_decay=0.0))
    found, cold = train_dense(standing_still, start).state_dict(), train_dense(standing_still).state_dict()
    for name in ("conv1.weight", "conv4.weight", "bn2.bias"):
        torch.testing.assert_close(found[name], start[name], rtol=0, atol=1e-6)
        assert not torch.allclose(cold[name], start[name], atol=0.01)
    assert torch.equal(found["head.weight"], cold["head.weight"])


def test_restrict_head_keeps_the_named_logits_in_order():
    model = copy.deepcopy(samples.trained_net())
    x = torch.randn(5, *samples.IMAGE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        full = model(x)
        found = restrict_head(model, "head", (4, 0, 2))(x)
    assert model.head.out_features == 3
    torch.testing.assert_close(found, full[:, [4, 0, 2]], rtol=1e-6, atol=1e-6)
