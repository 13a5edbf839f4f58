"""Post-training steps: judged on validation data, undone to the bit, reported, and part of what is stored."""

from dataclasses import replace

import learning_samples as samples
import numpy as np
import pytest
import torch

from tsn_toolkit.contracts import Split
from tsn_toolkit.extract import masked_model
from tsn_toolkit.parts.subnet_weight import SubnetWeight, wrapped
from tsn_toolkit.parts.wrapping import attach_
from tsn_toolkit.store.allocation import allocation
from tsn_toolkit.store.store import Store
from tsn_toolkit.trainer import post_training
from tsn_toolkit.trainer.context import PostTraining, starting_model
from tsn_toolkit.trainer.loop import evaluate
from tsn_toolkit.trainer.post_training import PostTrainer

ALL = PostTraining(samples=64, equalize=True, rounding="gptq", correct_biases=True, ranges="mse")


@pytest.fixture
def make(tmp_path):
    """Contexts of task `first`; lines and records are collected in the function's own lists."""

    def call(kind="checkpoint", **settings):
        store = Store.create(tmp_path / f"store{len(call.stores)}", trunk=samples.trunk(kind), graph=samples.graph(), recipe={})
        call.stores.append(store)
        keep = lambda name, values: call.kept.append((name, values))  # noqa: E731
        return samples.make_context(store, samples.make_data(), note=call.lines.append, keep=keep, post_training=PostTraining(**settings))

    call.stores, call.lines, call.kept = [], [], []
    return call


def wrapped_model(context, own=0.5):
    """The starting model with a share of the slots of every layer but the head its own, in 2 bits."""
    model = starting_model(context)
    for position, (name, frozen) in enumerate(context.inherited.items()):
        tensors = torch.from_numpy(frozen.q).float(), torch.from_numpy(frozen.present), torch.from_numpy(frozen.scale)
        wrapper = SubnetWeight(*tensors, rule="replace", density=0.5, bit_width=2, max_code=127)
        wrapper.mask.copy_(torch.rand(frozen.q.shape, generator=torch.Generator().manual_seed(position)) < own)
        attach_(model.get_submodule(name), wrapper)
    for _, wrapper, latent in wrapped(model):
        wrapper.fix_scale_(latent)
        wrapper.fit_codebook_(latent)
    return model.eval()


def state_of(model):
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("rounding", ["gptq", "learned"])
def test_rounding_that_helps_is_kept_and_reported_by_layer(make, rounding):
    context = make(samples=64, rounding=rounding, rounding_steps=20)
    model = wrapped_model(context)
    loss, _ = evaluate(model, context.data.validation, context.data, samples.CPU)
    steps = PostTrainer(context, ())
    steps.improve_codes_(model)
    (record,) = steps.records
    assert record.verdict == "kept" and record.loss.mean < 0 and len(record.layers) == 4
    assert all(layer.error_after <= layer.error_before for layer in record.layers)
    assert all(layer.error_after < layer.error_before for layer in record.layers if layer.changed) and record.layers[-1].changed > 0
    assert evaluate(model, context.data.validation, context.data, samples.CPU)[0] == pytest.approx(loss + record.loss.mean, abs=2e-3)
    assert make.lines[0].startswith(f"task `first`: rounding ({rounding}): kept") and len(make.lines) == 5
    assert "relative output error" in make.lines[1]


@pytest.mark.parametrize("step", ["equalize", "rounding"])
def test_a_step_that_raises_the_validation_loss_is_put_back_to_the_bit(make, monkeypatch, step):
    context = make(samples=64, **{"equalize": {"equalize": True}, "rounding": {"rounding": "gptq"}}[step])
    model = wrapped_model(context, own=1.0)
    with torch.no_grad():
        model.get_submodule("bn1").weight[0] *= 64  # one channel that equalization must even out
    state, real = state_of(model), post_training.validation_losses
    calls = []

    def rising(net, task, *limit):
        calls.append(0)
        return real(net, task, *limit) + len(calls)

    monkeypatch.setattr(post_training, "validation_losses", rising)
    steps = PostTrainer(context, ())
    steps.improve_codes_(model)
    assert steps.records[0].verdict == "undone" and sum(layer.changed for layer in steps.records[0].layers) > 0
    assert set(model.state_dict()) == set(state)
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_a_step_without_validation_examples_or_codes_is_idle_and_says_why(make):
    context = make(rounding="gptq")
    none = Split(context.data.validation.x[:0], context.data.validation.y[:0])
    steps = PostTrainer(replace(context, data=replace(context.data, validation=none)), ())
    steps.improve_codes_(wrapped_model(context))
    assert (steps.records[0].verdict, steps.records[0].reason) == ("idle", "there are no validation examples to judge it on")
    steps = PostTrainer(context, ())
    steps.improve_codes_(starting_model(context).eval())
    assert (steps.records[0].verdict, steps.records[0].reason) == ("idle", "no layer allows it")


def learned(make, kind, changes=None, **settings):
    """A task learned with these steps, committed; (its store, result)."""
    context = make(kind, **settings)
    result = samples.learn("tsn", replace(context, **(changes or {})))
    make.stores[-1].commit(result, {})
    return make.stores[-1], result


@pytest.mark.parametrize("kind", ["seed", "checkpoint"])
def test_a_task_with_all_steps_is_stored_as_validated_and_repeats_itself_whatever_the_test_data(make, kind):
    settings = {key: getattr(ALL, key) for key in ("samples", "equalize", "rounding", "correct_biases", "ranges")}
    store, result = learned(make, kind, **settings)
    (name, records), data = make.kept[0], samples.make_data()
    assert name == "post_training"
    assert [record["step"] for record in records] == ["equalization", "rounding (gptq)", "bias correction", "activation ranges (mse)"]
    assert all(record["verdict"] in ("kept", "undone") or record["reason"] for record in records)
    model = masked_model(samples.factory, samples.graph(), Store.open(store.path).weights("first"))
    loss, accuracy = evaluate(model, data.validation, data, samples.CPU)
    assert accuracy == result.validation["accuracy"] and loss == pytest.approx(result.validation["loss"], rel=1e-6)
    flipped = replace(data, test=replace(data.test, x=255 - data.test.x, y=data.test.y.flip(0)))
    again, _ = learned(make, kind, {"data": flipped}, **settings)
    assert (again.path / again.entry("first").path).read_bytes() == (store.path / store.entry("first").path).read_bytes()


def test_steps_change_no_inherited_integer_and_none_of_them_is_the_default(make):
    plain, result = learned(make, "checkpoint")
    assert make.lines == [] and make.kept == []
    store, improved = learned(make, "checkpoint", samples=64, rounding="gptq", equalize=True, correct_biases=True)
    for name, layer in improved.layers.items():
        before, after = plain.weights("first").q[name], store.weights("first").q[name]
        own = layer.states == 2
        np.testing.assert_array_equal(layer.states, result.layers[name].states)
        np.testing.assert_array_equal(after[~own], before[~own])
    assert any((store.weights("first").q[name] != plain.weights("first").q[name]).any() for name in improved.layers)
    frozen, trunk = store.frozen_view("trunk"), plain.frozen_view("trunk")
    assert all(np.array_equal(frozen[name].q, trunk[name].q) for name in frozen)


@pytest.mark.parametrize("settings", [{"ranges": "mse"}, {"percentile": 0.9}])
def test_other_ranges_are_used_unless_the_integer_network_loses(make, settings):
    _, usual = learned(make, "checkpoint")
    _, other = learned(make, "checkpoint", **settings)
    (record,) = make.kept[0][1]
    assert record["verdict"] in ("kept", "undone") and record["layers"][0]["changed"] > 0
    assert record["layers"][0]["error_before"] > 0
    assert (other.ranges == usual.ranges) == (record["verdict"] == "undone")
    np.testing.assert_array_equal(other.head.codes, usual.head.codes)


def test_ranges_that_come_out_the_same_say_so(make):
    learned(make, "checkpoint", ranges="min_max")  # tensors are so small that the usual percentile holds every value
    (record,) = make.kept[0][1]
    assert (record["verdict"], record["reason"]) == ("idle", "all are those of percentile 0.99999")


def test_post_pruning_frees_bits_in_the_store_and_stays_as_validated(make):
    _, usual = learned(make, "seed")
    store, pruned = learned(make, "seed", prune_share=0.2, prune_tolerance=0.2)
    (record,) = make.kept[0][1]
    given_up = {layer["layer"]: layer["changed"] for layer in record["layers"]}
    assert record["verdict"] == "kept" and sum(given_up.values()) > 0 and record["bytes_after"] < record["bytes_before"]
    allocated = [allocation(other) for other in (make.stores[0], store)]
    for name, layer in pruned.layers.items():
        before, after = usual.layers[name].states, layer.states
        assert ((before == 2) & (after == 0)).sum() == (before != after).sum() == given_up[name], "own slots are pruned, nothing else changes"
        assert allocated[1][name].free_bits - allocated[0][name].free_bits == given_up[name] * layer.bit_width
        np.testing.assert_array_equal(layer.codebook, usual.layers[name].codebook)
        np.testing.assert_array_equal(layer.codes, usual.layers[name].codes[after[before == 2] == 2])
    assert store.entry("first").size_bytes < make.stores[0].entry("first").size_bytes
    model = masked_model(samples.factory, samples.graph(), Store.open(store.path).weights("first"))
    data = samples.make_data()
    assert evaluate(model, data.validation, data, samples.CPU)[0] == pytest.approx(pruned.validation["loss"], rel=1e-6)


def test_post_pruning_beyond_its_tolerance_is_put_back_to_the_bit(make, monkeypatch):
    context = make(prune_share=0.3, prune_tolerance=0.1)
    model = wrapped_model(context)
    state, real = state_of(model), post_training.validation_losses
    whole = []

    def rising_on_all(net, task, *limit):
        whole.extend([0] * (not limit))
        return real(net, task, *limit) * 0 + (len(whole) if not limit else 0)

    monkeypatch.setattr(post_training, "validation_losses", rising_on_all)
    steps = PostTrainer(context, ())
    steps.improve_codes_(model)
    (record,) = steps.records
    assert record.verdict == "undone" and sum(layer.changed for layer in record.layers) > 0 and record.bytes_after == record.bytes_before
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert "codes and masks" in make.lines[0]
