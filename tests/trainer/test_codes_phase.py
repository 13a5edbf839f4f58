"""Around the codes phase: widths and centroids are decided on validation data, and what is decided is what is stored."""

from dataclasses import replace

import learning_samples as samples
import numpy as np
import pytest
import torch

from tsn_toolkit.contracts import Split
from tsn_toolkit.extract import masked_model
from tsn_toolkit.parts.subnet_weight import SubnetWeight, wrapped
from tsn_toolkit.parts.wrapping import attach_
from tsn_toolkit.store.store import Store
from tsn_toolkit.trainer.codes_phase import choose_bit_widths_, tune_centroids_, validation_losses
from tsn_toolkit.trainer.context import Precision, starting_model
from tsn_toolkit.trainer.loop import evaluate

ADAPT = Precision(adapt_bits=True, bit_tolerance=0.05)


@pytest.fixture
def context(tmp_path):
    """Task `first` over a trained trunk; notes are collected in `context.note.lines`."""
    store = Store.create(tmp_path / "store", trunk=samples.trunk("checkpoint"), graph=samples.graph(), recipe={})

    def note(line):
        note.lines.append(line)

    note.lines = []
    return samples.make_context(store, samples.make_data(), note=note)


def wrapped_model(context, *, bit_width=4):
    """The starting model with every layer but the head wrapped, half of its slots its own, codebooks fitted."""
    model = starting_model(context)
    for position, name in enumerate(context.inherited):
        frozen = context.inherited[name]
        wrapper = SubnetWeight(
            torch.from_numpy(frozen.q).float(),
            torch.from_numpy(frozen.present),
            torch.from_numpy(frozen.scale),
            rule="replace",
            density=0.5,
            bit_width=bit_width,
            max_code=127,
        )
        random = torch.rand(frozen.q.shape, generator=torch.Generator().manual_seed(position))
        wrapper.mask.copy_(random < 0.5)
        attach_(model.get_submodule(name), wrapper)
    for _, wrapper, latent in wrapped(model):
        wrapper.fix_scale_(latent)
        wrapper.fit_codebook_(latent)
    return model.eval()


def state_of(model):
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def assert_same(model, state):
    now = model.state_dict()
    assert set(now) == set(state)
    for name, tensor in state.items():
        assert torch.equal(now[name], tensor), name


def test_losses_are_those_of_the_validation_examples(context):
    model = wrapped_model(context).train()
    state = state_of(model)
    losses = validation_losses(model, context)
    assert losses.shape == (45,) and losses.dtype == np.float64 and model.training
    assert_same(model, state)
    expected, _ = evaluate(model, context.data.validation, context.data, samples.CPU)
    assert losses.mean() == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(validation_losses(model, context, 20), losses[::3], rtol=1e-5)


def test_widths_change_only_where_the_recipe_says_so(context):
    model = wrapped_model(context)
    state = state_of(model)
    choose_bit_widths_(model, context)
    assert_same(model, state)
    assert context.note.lines == []
    choose_bit_widths_(model, replace(context, precision=ADAPT))
    found = [wrapper.bit_width for _, wrapper, _ in wrapped(model)]
    assert max(found) <= 4 and min(found) < 4
    assert len(context.note.lines) == 1 + len(found) and all(line.startswith("task `first`: ") for line in context.note.lines)


def test_without_validation_examples_the_planned_widths_and_codebooks_stay(context):
    none = Split(context.data.validation.x[:0], context.data.validation.y[:0])
    context = replace(context, data=replace(context.data, validation=none), precision=ADAPT)
    model = wrapped_model(context)
    state = state_of(model)
    choose_bit_widths_(model, context)
    tune_centroids_(model, context, 1, context.generator())
    assert_same(model, state)


def test_tuned_centroids_lower_the_validation_loss_and_keep_everything_else(context):
    model = wrapped_model(context, bit_width=1)
    state, before = state_of(model), validation_losses(model, context)
    codes = {name: wrapper.finish(latent) for name, wrapper, latent in wrapped(model)}
    tune_centroids_(model, context, 3, context.generator())
    assert validation_losses(model, context).mean() < before.mean()
    assert context.note.lines[-1].endswith("on 45 examples, kept")
    now = model.state_dict()
    for name, tensor in state.items():
        assert torch.equal(now[name], tensor) or name.endswith((".original", ".codebook")), name
    for name, wrapper, latent in wrapped(model):
        after = wrapper.finish(latent)
        np.testing.assert_array_equal(after.states, codes[name].states)
        np.testing.assert_array_equal(after.codes, codes[name].codes)
        assert (after.codebook != codes[name].codebook).any()


def test_centroids_that_make_it_worse_are_put_back(context):
    model = wrapped_model(context)
    state = state_of(model)
    tune_centroids_(model, replace(context, learning_rate=1000.0), 1, context.generator())
    assert context.note.lines[-1].endswith("put back")
    assert_same(model, state)


def test_no_epochs_change_nothing(context):
    model, generator = wrapped_model(context), context.generator()
    state = state_of(model)
    tune_centroids_(model, context, 0, generator)
    assert_same(model, state)
    assert torch.equal(generator.get_state(), context.generator().get_state())


@pytest.mark.parametrize("kind", ["seed", "checkpoint"])
def test_a_task_with_both_is_stored_as_validated_and_repeats_itself(tmp_path, kind):
    def learn(name, *, test_flipped=False):
        store = Store.create(tmp_path / name, trunk=samples.trunk(kind), graph=samples.graph(), recipe={})
        data = samples.make_data()
        if test_flipped:
            data = replace(data, test=replace(data.test, x=255 - data.test.x, y=data.test.y.flip(0)))
        context = samples.make_context(store, data, plan=samples.plan(bit_width=5), precision=ADAPT, epochs=4)
        return store, samples.learn("tsn", context, centroid_epochs=1)

    store, result = learn("a")
    widths = {name: codes.bit_width for name, codes in result.layers.items()}
    assert max(widths.values()) <= 5 and min(widths.values()) < 5
    store.commit(result, {})
    data = samples.make_data()
    model = masked_model(samples.factory, samples.graph(), Store.open(store.path).weights("first"))
    loss, accuracy = evaluate(model, data.validation, data, samples.CPU)
    assert accuracy == result.validation["accuracy"] and loss == pytest.approx(result.validation["loss"], rel=1e-6)
    again_store, again = learn("b", test_flipped=True)
    again_store.commit(again, {})
    assert again_store.codes_hash("first") == store.codes_hash("first")
    assert (again_store.path / again_store.entry("first").path).read_bytes() == (store.path / store.entry("first").path).read_bytes()


@pytest.mark.parametrize(
    ("epochs", "adapt", "expected"), [(12, True, {"codes": 6, "narrowed codes": 2}), (12, False, {"codes": 8}), (2, True, {"codes": 1})]
)
def test_widths_are_chosen_before_the_last_fifth_of_the_codes_phase(tmp_path, epochs, adapt, expected):
    store = Store.create(tmp_path / "store", trunk=samples.trunk("checkpoint"), graph=samples.graph(), recipe={})
    events = []
    context = samples.make_context(
        store,
        samples.make_data(),
        epochs=epochs,
        precision=ADAPT if adapt else Precision(),
        progress=lambda name, done, steps: events.append((name, steps)),
        note=lambda line: events.append(("note", 0)),
    )
    samples.learn("tsn", context)
    steps = {name: steps // 5 for name, steps in events if name != "note"}  # 160 examples in batches of 32
    assert {name: count for name, count in steps.items() if "codes" in name} == expected
    names = list(dict.fromkeys(name for name, _ in events))
    assert ("note" in names) == adapt
    if adapt:
        assert names.index("note") == len(names) - 2, "before the last stretch"
