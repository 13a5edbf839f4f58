"""`wsn`: the density in every layer, 8-bit values without a fitted codebook, and the mask of the selected epoch."""

import learning_samples as samples
import numpy as np
import pytest

from tsn_toolkit.errors import RecipeError
from tsn_toolkit.masks.top import keep_count
from tsn_toolkit.parts.subnet_weight import wrapped
from tsn_toolkit.store.inspect import inspect_store
from tsn_toolkit.store.store import Store
from tsn_toolkit.strategies import wsn
from tsn_toolkit.trainer import fit_selected, loop
from tsn_toolkit.trainer.loop import Phase
from tsn_toolkit.trainer.select_layers import fix_codes_

PRUNED, REUSE, OWN = 0, 1, 2
SIZES = {"conv1": 36, "conv2": 288, "conv3": 576, "conv4": 576}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    store = Store.create(tmp_path_factory.mktemp("wsn") / "store", trunk=samples.trunk("seed"), graph=samples.graph(), recipe={})
    for name, classes, parent in (("first", (0, 1, 2), "trunk"), ("second", (5, 3, 4), "first")):
        store.commit(samples.learn("wsn", samples.make_context(store, samples.make_data(name, classes), parent=parent)), {})
    return store


def test_every_task_uses_the_density_of_all_units(store):
    for task in ("first", "second"):
        for name, states in store.states(task).items():
            assert states.size == SIZES[name] and (states != PRUNED).sum() == keep_count(0.4, states.size)


def test_own_slots_are_the_mask_without_what_earlier_tasks_used(store):
    first, second = store.states("first"), store.states("second")
    for name in SIZES:
        assert ((first[name] != PRUNED) == (first[name] == OWN)).all(), "the first task inherits nothing"
        np.testing.assert_array_equal(second[name] == OWN, (second[name] != PRUNED) & (first[name] == PRUNED))


def test_values_have_eight_bits_and_are_the_nearest_integers(store):
    context = samples.make_context(store, samples.make_data("third", (1, 4, 2)), parent="second")
    seen = {}

    def watch(model, found):
        fix_codes_(model, found)
        seen.update({name: (latent.detach().clone(), wrapper.own_slots().clone()) for name, wrapper, latent in wrapped(model)})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wsn, "fix_codes_", watch)
        result = samples.learn("wsn", context)
    owning = {name: codes for name, codes in result.layers.items() if len(codes.codes)}  # a layer may find all it wants in what it inherits
    assert len(owning) >= 2
    for name, codes in owning.items():
        assert codes.bit_width == 8 and set(codes.codebook.tolist()) == set(range(-127, 128))
        latent, own = seen[name]
        wanted = (latent / np.asarray(codes.scale).reshape(-1, 1, 1, 1))[own].numpy()
        stored = codes.codebook[codes.codes].astype(float)
        assert np.abs(stored - np.clip(wanted, -127, 127)).max() <= 0.5 + 1e-4


def test_the_bytes_of_values_are_those_of_eight_bits(store):
    """Entropy coding may take less than 8 bits per own slot, and never much more."""
    part = inspect_store(store)["parts"][2]
    own = sum(int((states == OWN).sum()) for states in store.states("first").values())
    assert 0.6 * own < part["breakdown"]["values"] < 1.05 * own + 64


def test_the_stored_mask_is_that_of_the_selected_epoch(store, monkeypatch):
    """Training after the best epoch may move scores; the mask that comes out must be the one that was judged."""
    losses, masks = [], []
    evaluate = loop.evaluate

    def record(model, *arguments):
        loss, accuracy = evaluate(model, *arguments)
        loss = 1.0 if not losses else 2.0  # the first epoch is the best
        losses.append(loss)
        masks.append({name: wrapper.mask.clone() for name, wrapper, _ in wrapped(model)})
        return loss, accuracy

    monkeypatch.setattr(loop, "evaluate", record)
    fresh = Store.create(store.path.parent / "again", trunk=samples.trunk("seed"), graph=samples.graph(), recipe={})
    result = samples.learn("wsn", samples.make_context(fresh, samples.make_data(), learning_rate=0.5))
    assert any((masks[0][name] != masks[-1][name]).any() for name in masks[0]), "scores must have moved for the test to mean something"
    for name, codes in result.layers.items():
        np.testing.assert_array_equal(codes.states != PRUNED, masks[0][name].numpy())


def test_a_trained_trunk_is_refused(tmp_path):
    trained = Store.create(tmp_path / "store", trunk=samples.trunk("checkpoint"), graph=samples.graph(), recipe={})
    with pytest.raises(RecipeError, match="strategy `wsn` gives tasks the slots that nobody owns"):
        samples.learn("wsn", samples.make_context(trained, samples.make_data()))


def test_the_phase_takes_all_epochs(store, monkeypatch):
    phases = []
    monkeypatch.setattr(fit_selected, "fit_selected_", lambda model, context, phase, generator, **_: phases.append(phase))
    samples.learn("wsn", samples.make_context(store, samples.make_data("third", (1, 4, 2)), parent="second", epochs=7))
    assert phases == [Phase("weights and scores", 7, 0.1, "hill", select_best=True)]
