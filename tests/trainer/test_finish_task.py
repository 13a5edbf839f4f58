"""The end of every store strategy: what it claims is what its integers score."""

from dataclasses import replace

import learning_samples as samples
import numpy as np
import pytest
import torch
from torch import nn

from tsn_toolkit.contracts import Split
from tsn_toolkit.extract import masked_model
from tsn_toolkit.graph.shrink import shrink
from tsn_toolkit.graph.trace import trace
from tsn_toolkit.numerics.half import round_half
from tsn_toolkit.numerics.vectors import round_vector
from tsn_toolkit.parts.subnet_weight import SubnetWeight
from tsn_toolkit.parts.wrapping import attach_
from tsn_toolkit.store.store import Store
from tsn_toolkit.trainer import finish_task as finish_task_module
from tsn_toolkit.trainer.context import Precision, starting_model
from tsn_toolkit.trainer.finish_task import finish_task
from tsn_toolkit.trainer.loop import evaluate


def make_mlp():
    with samples.seeded(0):
        layers = [nn.Flatten(), nn.Linear(64, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 6)]
        return nn.Sequential(*layers).eval()


@pytest.fixture
def finish(tmp_path):
    """Ends the learning of an untrained perceptron on `count` training examples."""
    graph = trace(make_mlp(), torch.zeros(1, 1, 8, 8))
    store = Store.create(tmp_path / "store", trunk=samples.trunk("seed"), graph=graph, recipe={})

    def call(count, *, calibration_batches=16, reestimate=True):
        data = samples.make_data(train=128)
        data = replace(data, train=Split(data.train.x[:count], data.train.y[:count]))
        context = samples.make_context(store, data, factory=make_mlp, graph=graph)
        model = starting_model(context)
        small = shrink(model, graph, {})
        module = small.model.get_submodule("1")
        latent = module.weight.detach().clone()
        zeros = torch.zeros(module.weight.shape)
        wrapper = SubnetWeight(zeros, zeros.bool(), None, rule="select", density=1.0, bit_width=4, max_code=127)
        wrapper.fix_scale_(latent)
        wrapper.fit_codebook_(latent)
        attach_(module, wrapper)
        result = finish_task(small, model, {}, context, strategy="x", calibration_batches=calibration_batches, reestimate=reestimate)
        return result, small.model, data

    return call


def test_a_last_batch_of_one_example_does_not_break_the_norms(finish):
    result, _, _ = finish(65)  # two batches of 32 and one example, which has no variance
    whole, _, _ = finish(64)
    np.testing.assert_array_equal(result.norms["2"].gain, whole.norms["2"].gain)
    np.testing.assert_array_equal(result.norms["2"].shift, whole.norms["2"].shift)


def test_fewer_examples_than_a_batch_are_all_used(finish):
    result, model, data = finish(20)
    x = (data.train.x.float() / 255 - 0.5) / 0.25
    y = torch.nn.functional.linear(x.flatten(1), model[1].weight.detach()).double()
    gain = 1 / (y.var(0) + 1e-5).sqrt()
    np.testing.assert_allclose(result.norms["2"].gain, gain, rtol=2**-10)
    np.testing.assert_allclose(result.norms["2"].shift, -y.mean(0) * gain, rtol=2**-9, atol=1e-3)


def test_calibration_sees_batches_spread_over_the_whole_split(finish):
    result, model, data = finish(128, calibration_batches=2)
    x = (data.train.x.float() / 255 - 0.5) / 0.25
    y = torch.nn.functional.linear(x.flatten(1), model[1].weight.detach()).double()
    chosen = [y[0:32], y[64:96]]
    gain = 1 / (torch.stack([part.var(0) for part in chosen]).mean(0) + 1e-5).sqrt()
    np.testing.assert_allclose(result.norms["2"].gain, gain, rtol=2**-10)


def test_statistics_stay_when_they_are_not_to_be_averaged(finish):
    result, _, _ = finish(64, reestimate=False)
    np.testing.assert_allclose(result.norms["2"].gain, round_half(np.full(8, (1 + 1e-5) ** -0.5)), rtol=1e-6)
    np.testing.assert_array_equal(result.norms["2"].shift, np.zeros(8))


def test_claims_are_measured_on_the_final_integers(finish):
    result, model, data = finish(64)
    x, y = (data.validation.x.float() / 255 - 0.5) / 0.25, data.validation.y
    with torch.no_grad():
        logits = model(x)
    assert result.validation["accuracy"] == float((logits.argmax(1) == y).double().mean())
    assert result.validation["loss"] == pytest.approx(float(torch.nn.functional.cross_entropy(logits, y)), rel=1e-5)
    assert result.classes == (0, 1, 2)
    assert result.ranges and all(span.scale > 0 for span in result.ranges.values())


@pytest.mark.parametrize(("vectors", "head_bits"), [("half", 3), ("int8", 8), ("int8", 4)])
@pytest.mark.parametrize("kind", ["seed", "checkpoint"])
def test_what_is_stored_in_few_bits_is_what_was_validated(tmp_path, kind, vectors, head_bits):
    store = Store.create(tmp_path / "store", trunk=samples.trunk(kind), graph=samples.graph(), recipe={})
    precision = Precision(vectors=vectors, head_bits=head_bits)
    for position, data in enumerate((samples.make_data(), samples.make_data("second", (5, 3, 4)))):
        parent = "trunk" if kind == "checkpoint" or not position else "first"
        result = samples.learn("tsn", samples.make_context(store, data, parent=parent, precision=precision))
        assert result.vector_precision == vectors
        assert np.abs(result.head.codes.astype(int)).max() == 2 ** (head_bits - 1) - 1
        vectors_of = [codes.scale for codes in result.layers.values()] + [norm.gain for norm in result.norms.values()]
        vectors_of += [norm.shift for norm in result.norms.values()] + [result.head.scale, result.head.bias]
        for vector in vectors_of:
            np.testing.assert_array_equal(round_vector(vector, vectors), vector)
        store.commit(result, {})
        model = masked_model(samples.factory, samples.graph(), Store.open(store.path).weights(data.name))
        loss, accuracy = evaluate(model, data.validation, data, samples.CPU)
        assert accuracy == result.validation["accuracy"]
        assert loss == pytest.approx(result.validation["loss"], rel=1e-6)


def test_int8_vectors_take_fewer_bytes(tmp_path):
    sizes = {}
    for vectors in ("half", "int8"):
        store = Store.create(tmp_path / vectors, trunk=samples.trunk("seed"), graph=samples.graph(), recipe={})
        store.commit(samples.learn("tsn", samples.make_context(store, samples.make_data(), precision=Precision(vectors=vectors))), {})
        sizes[vectors] = store.entry("first").size_bytes
    assert sizes["int8"] < sizes["half"]


def test_a_bias_of_the_head_that_a_late_step_moves_is_stored(tmp_path, monkeypatch):
    def moved(_, model):
        model.head.bias.data += torch.tensor([0.3, -0.7, 0.1])

    monkeypatch.setattr(finish_task_module.PostTrainer, "improve_vectors_", moved)
    store, data = Store.create(tmp_path / "store", trunk=samples.trunk("seed"), graph=samples.graph(), recipe={}), samples.make_data()
    result = samples.learn("wsn", samples.make_context(store, data, epochs=1))
    store.commit(result, {})
    model = masked_model(samples.factory, samples.graph(), store.weights("first"))
    assert evaluate(model, data.validation, data, samples.CPU)[0] == pytest.approx(result.validation["loss"], rel=1e-6)
    np.testing.assert_array_equal(round_half(result.head.bias), result.head.bias)
    assert result.head.bias[0] - result.head.bias[1] > 0.5
