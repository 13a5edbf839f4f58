"""`esacl`: sparse by its own saliency, its switches switch, and its parts are those that have tests of their own."""

from dataclasses import replace

import learning_samples as samples
import numpy as np
import pytest
import torch
from torch.nn import functional

from tsn_toolkit.extract import masked_model
from tsn_toolkit.importance import magnitude, sdp
from tsn_toolkit.masks.top import keep_count, top_mask
from tsn_toolkit.parts.grda import GRDA
from tsn_toolkit.store.store import Store
from tsn_toolkit.strategies import esacl


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return Store.create(tmp_path_factory.mktemp("esacl") / "store", trunk=samples.trunk("seed"), graph=samples.graph(), recipe={})


def learn(store, **options):
    return samples.learn("esacl", samples.make_context(store, samples.make_data(), epochs=2), **options)


@pytest.mark.parametrize("sharp", [True, False])
def test_masks_are_the_largest_saliencies_of_the_trained_network(store, sharp, monkeypatch):
    criterion, seen = (sdp if sharp else magnitude), {}
    score = criterion.weight_scores

    def watch(model, graph, batches, loss):
        seen.update(score(model, graph, batches, loss))
        return seen

    monkeypatch.setattr(criterion, "weight_scores", watch)
    result = learn(store, sdp=sharp, sparsity=0.9)
    for name, codes in result.layers.items():
        size = codes.states.size
        expected = torch.ones(codes.states.shape, dtype=torch.bool)
        if name != "conv1":
            expected = top_mask(torch.from_numpy(seen[name]), keep_count(0.1, size))
        np.testing.assert_array_equal(codes.states != 0, expected.numpy())


def test_without_sparsity_and_sharpness_it_is_ewc(store):
    plain, ours = samples.learn("ewc", samples.make_context(store, samples.make_data(), epochs=2)), learn(store, sdp=False, sparsity=0.0)
    for name, codes in plain.layers.items():
        np.testing.assert_array_equal(codes.codes, ours.layers[name].codes)
    for name, array in plain.revision.memory.items():
        np.testing.assert_array_equal(array, ours.revision.memory[name])


def test_each_switch_reaches_the_step(store, monkeypatch):
    seen = []
    real = esacl.sharpness_gradients

    def watch(x, y, **parts):
        seen.append({key: parts[key] for key in ("rho", "candidates", "examples")} | {"held": parts["penalty"] is not None})
        return real(x, y, **parts)

    monkeypatch.setattr(esacl, "sharpness_gradients", watch)
    learn(store, rho=0.1, candidates=0.3, examples=0.25)
    assert seen[0] == {"rho": 0.1, "candidates": 0.3, "examples": 0.25, "held": False} and len(seen) == 10
    learn(store, ids=False, examples=0.25)
    assert seen[-1]["examples"] == 1.0
    count = len(seen)
    learn(store, sdp=False)
    assert len(seen) == count, "plain steps"


def test_later_tasks_are_held(store, monkeypatch, tmp_path):
    own = Store.create(tmp_path / "own", trunk=samples.trunk("seed"), graph=samples.graph(), recipe={})
    own.commit(learn(own), {})
    context = samples.make_context(own, samples.make_data("second", (5, 3, 4)), parent="first", revision=own.revision("first"), epochs=1)
    loose, held = (samples.learn("esacl", context, strength=strength, sparsity=0.0) for strength in (0.0, 300.0))
    fisher = own.revision("first").memory["conv3.weight"]
    start = own.dense_weights("first")["conv3"]

    def moved(result):
        codes = result.layers["conv3"]
        q = codes.codebook[codes.codes].reshape(codes.states.shape) * codes.scale.reshape(-1, 1, 1, 1)
        return float((fisher * (q - start) ** 2).sum())

    assert moved(held) < 0.5 * moved(loose)


@pytest.mark.parametrize("weight", [1e-6, 1e6])
def test_pruning_weighs_this_task_and_every_earlier_one_alike(store, monkeypatch, tmp_path, weight):
    """Whatever the units of either: this task's saliency and the earlier one's are equally large on average, so that slots of both stay."""
    own = Store.create(tmp_path / "own", trunk=samples.trunk("seed"), graph=samples.graph(), recipe={})
    own.commit(learn(own), {})
    context = samples.make_context(own, samples.make_data("second", (5, 3, 4)), parent="first", revision=own.revision("first"), epochs=1)
    shapes = {layer.name: layer.shape for layer in context.graph.layers}

    def every(name, first):
        return torch.arange(int(np.prod(shapes[name]))).reshape(shapes[name]) % 4 == first

    monkeypatch.setattr(esacl.sdp, "weight_scores", lambda model, *_: {name: every(name, 0).double().numpy() for name in shapes})
    monkeypatch.setattr(esacl.WeightAnchor, "losses_without", lambda _, name: weight * every(name.removesuffix(".weight"), 1).double())
    result = samples.learn("esacl", context, sparsity=0.5)
    for name in ("conv2", "conv3", "conv4"):
        np.testing.assert_array_equal(result.layers[name].states != 0, (every(name, 0) | every(name, 1)).numpy())


def test_grda_is_an_optimizer_of_the_recipe_s_rate(store, monkeypatch):
    made = []

    class Watched(GRDA):
        def __init__(self, groups, **options):
            super().__init__(groups, **options)
            made.append((self, options))

    monkeypatch.setattr(esacl, "GRDA", Watched)
    learn(store, optimizer="grda", grda_c=0.001, grda_mu=0.6)
    ((optimizer, options),) = made
    assert options == {"c": 0.001, "mu": 0.6} and 0 < optimizer.param_groups[0]["lr"] <= 0.1


def test_the_pruned_network_is_the_one_that_was_judged(store):
    """Validation numbers are those of the pruned, rounded network."""
    result = learn(store, sparsity=0.95)
    own = Store.create(store.path.parent / "judged", trunk=samples.trunk("seed"), graph=samples.graph(), recipe={})
    own.commit(replace(result, name="first"), {})
    model, data = masked_model(samples.factory, samples.graph(), own.weights("first")), samples.make_data()
    with torch.no_grad():
        logits = model((data.validation.x.float() / 255 - 0.5) / 0.25)
    assert float(functional.cross_entropy(logits, data.validation.y)) == pytest.approx(result.validation["loss"], rel=1e-5)
