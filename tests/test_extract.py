"""From the store to one small dense module per task: the masked one's answers, the store's integers, fewer operations."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tsn_toolkit.errors import GraphError
from tsn_toolkit.extract import extract, masked_model
from tsn_toolkit.store.store import Store

sys.path.insert(0, str(Path(__file__).parent))
import learning_samples as samples  # noqa: E402


@pytest.fixture(autouse=True)
def one_thread():
    """Small models run fastest, and always alike, on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def stores():
    return {}


@pytest.fixture(params=["seed", "checkpoint"])
def weights(request, stores, tmp_path_factory):
    """A learned task over a fresh and over a trained trunk, as the store decodes it."""
    if request.param not in stores:
        folder = tmp_path_factory.mktemp("extract")
        store = Store.create(folder / "store", trunk=samples.trunk(request.param), graph=samples.graph(), recipe={})
        store.commit(samples.learn("tsn", samples.make_context(store, samples.make_data(), epochs=2)), {})
        stores[request.param] = store
    return stores[request.param].weights("first")


def test_small_and_masked_give_the_same_answers(weights):
    found = extract(samples.factory, samples.graph(), weights)
    masked = masked_model(samples.factory, samples.graph(), weights)
    x = torch.randn(20, *samples.IMAGE, generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        expected, small = masked(x), found.model(x)
    assert small.shape == (20, 3) and (expected - small).abs().max() <= 1e-5 * expected.abs().max()
    assert found.proof_error <= 1e-5 and not found.model.training and found.task == "first"


def test_masked_model_against_convolutions_written_out(weights):
    """weight = scale * q and y = gain * x + shift, without the toolkit's own filling."""
    functional = torch.nn.functional

    def layer(x, name, norm, stride=1):
        weight = torch.from_numpy(weights.q[name].astype(np.float64) * weights.scale[name].reshape(-1, 1, 1, 1).astype(np.float64))
        gain, shift = (torch.from_numpy(v.astype(np.float64)).view(1, -1, 1, 1) for v in (weights.norms[norm].gain, weights.norms[norm].shift))
        return functional.conv2d(x, weight, stride=stride, padding=1) * gain + shift

    x = torch.randn(6, *samples.IMAGE, generator=torch.Generator().manual_seed(3))
    y = layer(x.double(), "conv1", "bn1").relu()
    y = layer(y, "conv2", "bn2", stride=2).relu()
    y = (layer(y, "conv3", "bn3") + y).relu()
    y = functional.adaptive_avg_pool2d(layer(y, "conv4", "bn4").relu(), 2).flatten(1)
    codes, scale, bias = (torch.from_numpy(part.astype(np.float64)) for part in (weights.head.codes, weights.head.scale, weights.head.bias))
    y = y @ (codes * scale[:, None]).T + bias
    with torch.no_grad():
        found = masked_model(samples.factory, samples.graph(), weights)(x).double()
    assert (found - y).abs().max() <= 1e-5 * y.abs().max()


def test_integers_are_the_store_s_and_the_weights_are_exactly_scale_times_q(weights):
    found = extract(samples.factory, samples.graph(), weights)
    masks = weights.unit_masks
    grids = {
        "conv1": np.ix_(masks["conv1"], [True]),
        "conv2": np.ix_(masks["conv2"], masks["conv1"]),
        "conv3": np.ix_(masks["conv2"], masks["conv2"]),
        "conv4": np.ix_(masks["conv4"], masks["conv2"]),
        "head": np.ix_([True] * 3, np.repeat(masks["conv4"], 4)),
    }
    full = {**weights.q, "head": weights.head.codes}
    assert set(found.q) == set(grids) == set(found.scale)
    for name, q in found.q.items():
        np.testing.assert_array_equal(q, full[name][grids[name]])
        weight = found.scale[name].reshape(-1, *[1] * (q.ndim - 1)) * q.astype(np.float32)
        np.testing.assert_array_equal(found.model.get_submodule(name).weight.detach().numpy(), weight)


def test_operations_are_counted_by_hand(weights):
    found = extract(samples.factory, samples.graph(), weights)
    a, b, c = (int(weights.unit_masks[name].sum()) for name in ("conv1", "conv2", "conv4"))
    assert (a, b, c) == (3, 6, 6)

    def macs(a, b, c):
        return 9 * (64 * a + 16 * (a * b + b * b + b * c)) + 3 * 4 * c

    assert (found.macs, found.dense_macs) == (macs(a, b, c), macs(4, 8, 8))


def test_a_batch_of_one_answers_like_a_batch_of_many(weights):
    model = extract(samples.factory, samples.graph(), weights).model
    x = torch.randn(33, *samples.IMAGE, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        together, alone = model(x), torch.cat([model(example[None]) for example in x])
    assert (together - alone).abs().max() <= 1e-5 * together.abs().max()
    assert torch.equal(together.argmax(1), alone.argmax(1))


def test_the_weights_and_global_generators_are_left_alone(weights):
    before, state = {name: q.copy() for name, q in weights.q.items()}, torch.get_rng_state()
    extract(samples.factory, samples.graph(), weights)
    assert all(np.array_equal(weights.q[name], q) for name, q in before.items())
    assert torch.equal(torch.get_rng_state(), state)


def test_a_graph_that_forgets_a_reader_is_caught(weights):
    graph = samples.graph()
    groups = tuple(
        replace(group, members=tuple(member for member in group.members if member.parameter != "conv2.weight" or member.dim != 1))
        for group in graph.groups
    )
    with pytest.raises(GraphError, match="cannot run"):
        extract(samples.factory, replace(graph, groups=groups), weights)
