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


def test_without_sparsity_and_its_parts_it_is_ewc(store):
    plain, ours = samples.learn("ewc", samples.make_context(store, samples.make_data(), epochs=2)), learn(store, sdp=False, ids=False, sparsity=0.0)
    for name, codes in plain.layers.items():
        np.testing.assert_array_equal(codes.codes, ours.layers[name].codes)
    for name, array in plain.revision.memory.items():
        np.testing.assert_array_equal(array, ours.revision.memory[name])


def watched(monkeypatch):
    """What the step is given, call by call."""
    seen, real = [], esacl.sharpness_gradients

    def watch(x, y, **parts):
        fraction = parts["candidates"]._fraction
        seen.append({key: parts[key] for key in ("rho", "examples", "sharp")} | {"candidates": fraction, "held": parts["penalty"] is not None})
        return real(x, y, **parts)

    monkeypatch.setattr(esacl, "sharpness_gradients", watch)
    return seen


def test_each_switch_reaches_the_step(store, monkeypatch):
    seen = watched(monkeypatch)
    learn(store, rho=0.1, candidates=0.3, examples=0.25)
    assert seen[0] == {"rho": 0.1, "candidates": 0.3, "examples": 0.25, "sharp": True, "held": False} and len(seen) == 10
    learn(store, ids=False, examples=0.25)
    assert seen[-1]["examples"] == 1.0 and seen[-1]["sharp"]
    learn(store, sdp=False, examples=0.25)
    assert seen[-1]["examples"] == 0.25 and not seen[-1]["sharp"]
    count = len(seen)
    learn(store, sdp=False, ids=False)
    assert len(seen) == count == 30, "plain steps"


def test_smoothed_labels_reach_its_own_passes(store, monkeypatch):
    """The loss of a step is that of plain training on the same logits, and so is the one whose saliency prunes."""
    context = samples.make_context(store, samples.make_data(), epochs=1)
    context = replace(context, settings=replace(samples.SETTINGS, label_smoothing=0.2))
    steps, losses = [], []
    step, saliency = esacl.sharpness_gradients, sdp.weight_scores

    def watch_step(x, y, **parts):
        found = step(x, y, **parts)
        steps.append((found[0], functional.cross_entropy(found[1], y, label_smoothing=0.2).item()))
        return found

    def watch_saliency(model, graph, batches, loss):
        logits, y = model(batches[0][0]).detach(), batches[0][1]
        losses.append((loss(logits, y).item(), functional.cross_entropy(logits, y, label_smoothing=0.2).item()))
        return saliency(model, graph, batches, loss)

    monkeypatch.setattr(esacl, "sharpness_gradients", watch_step)
    monkeypatch.setattr(sdp, "weight_scores", watch_saliency)
    samples.learn("esacl", context, setting="class-incremental")
    assert len(steps) == 5 and len(losses) == 1
    for found, wanted in (*steps, *losses):
        assert found == pytest.approx(wanted, rel=1e-5)


@pytest.fixture(scope="module")
def sparse_store(tmp_path_factory):
    """One task, three quarters of whose weights are 0."""
    own = Store.create(tmp_path_factory.mktemp("sparse") / "own", trunk=samples.trunk("seed"), graph=samples.graph(), recipe={})
    own.commit(learn(own), {})
    return own


def second(own, **options):
    context = samples.make_context(own, samples.make_data("second", (5, 3, 4)), parent="first", revision=own.revision("first"), epochs=1)
    return samples.learn("esacl", context, **options)


@pytest.mark.parametrize("sharp", [True, False])
def test_the_direction_of_a_later_task_lies_in_weights_that_are_left(sparse_store, monkeypatch, sharp):
    """All of it: what was pruned has nothing to lose; and it is that of the half of them with the least of what the prune ranks by."""
    start, fisher = sparse_store.dense_weights("first"), sparse_store.revision("first").memory
    steps, direction = [], esacl.PruningCandidates.direction

    def watch(self, gradients, *, examples, rho):
        found = direction(self, gradients, examples=examples, rho=rho)
        steps.append(({name: weight.detach().clone() for name, weight in self.weights.items()}, gradients, examples, found))
        return found

    monkeypatch.setattr(esacl.PruningCandidates, "direction", watch)
    second(sparse_store, sdp=sharp, candidates=0.5, rho=0.1)
    assert len(steps) == 5
    for weights, gradients, examples, found in steps:
        assert sum(float(eps.square().sum()) for eps in found.values()) == pytest.approx(0.01, rel=1e-4)
        for name, eps in found.items():
            began = torch.from_numpy(start[name] != 0)
            assert 0.2 < began.double().mean() < 0.26 and not eps[~began].any()
            size, gradient = weights[name].abs(), gradients[name]
            if sharp:
                importance = torch.from_numpy(fisher[f"{name}.weight"]).clamp_max(1 / (0.1 * 0.1))  # over strength and rate
                own, held = size * gradient.abs() + examples / 2 * (size * gradient) ** 2, importance * size**2
                size = own / own.mean() + held / held.mean()
            border = size[began].sort().values[round(0.5 * int(began.sum())) - 1]
            expected = began & (size <= border * (1 + 1e-5)) & (gradient != 0)
            assert ((eps != 0) != expected).sum() <= 1, "one may lie on the border"


def test_later_tasks_are_held(store, monkeypatch, tmp_path):
    own = Store.create(tmp_path / "own", trunk=samples.trunk("seed"), graph=samples.graph(), recipe={})
    own.commit(learn(own), {})
    context = samples.make_context(own, samples.make_data("second", (5, 3, 4)), parent="first", revision=own.revision("first"), epochs=1)
    loose, held = (samples.learn("esacl", context, strength=strength, sparsity=0.0) for strength in (0.0, 300.0))
    fisher, start = own.revision("first").memory, own.dense_weights("first")

    def moved(result):
        """By importance, over all layers."""
        total = 0.0
        for name, codes in result.layers.items():
            q = codes.codebook[codes.codes].reshape(codes.states.shape) * codes.scale.reshape(-1, 1, 1, 1)
            total += float((fisher[f"{name}.weight"] * (q - start[name]) ** 2).sum())
        return total

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
