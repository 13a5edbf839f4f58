"""`sparcl`: with all parts off it is the replay method to the bit; each part does what it says and saves operations."""

from dataclasses import replace

import learning_samples as samples
import numpy as np
import pytest
import torch

from tsn_toolkit.data.normalisation import normalise
from tsn_toolkit.extract import extract
from tsn_toolkit.parts.replay_buffer import ReplayBuffer
from tsn_toolkit.store.store import Store
from tsn_toolkit.strategies import sparcl
from tsn_toolkit.trainer import loop

OFF = {"sparsity": 0.0, "keep_gradients": 1.0, "remove": 0.0}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """One task, learned by DER++ without any of the parts."""
    store = Store.create(tmp_path_factory.mktemp("sparcl") / "store", trunk=samples.trunk("seed"), graph=samples.graph(), recipe={})
    store.commit(samples.learn("derpp", samples.make_context(store, samples.make_data())), {})
    return store


def second(store, strategy="sparcl", **options):
    context = samples.make_context(
        store, samples.make_data("second", (5, 3, 4)), parent="first", revision=store.revision("first"), epochs=options.pop("epochs", 2)
    )
    return samples.learn(strategy, context, **options)


@pytest.mark.parametrize("replay", ["er", "der", "derpp"])
def test_without_its_parts_it_is_the_replay_method(store, replay):
    own = {"er": {"replay_weight": 0.5}, "der": {"alpha": 0.1}, "derpp": {}}[replay]
    plain, sparse = second(store, replay, **own), second(store, replay=replay, **OFF)
    for name, codes in plain.layers.items():
        np.testing.assert_array_equal(codes.codes, sparse.layers[name].codes)
        np.testing.assert_array_equal(codes.scale, sparse.layers[name].scale)
    np.testing.assert_array_equal(plain.head.codes, sparse.head.codes)
    for name, array in plain.revision.memory.items():
        np.testing.assert_array_equal(array, sparse.revision.memory[name])


def test_masked_weights_are_zero_in_the_store_too(store):
    result = second(store, sparsity=0.75)
    for name, codes in result.layers.items():
        active = (codes.states != 0).sum()
        assert active == (36 if name == "conv1" else round(0.25 * codes.states.size))
    dense = second(store, **OFF)
    assert all((codes.states != 0).all() for codes in dense.layers.values())
    assert len(store.encode(result, {})) < len(store.encode(dense, {}))


MACS = {layer.name: layer.macs for layer in samples.graph().layers}
MASKED = {"conv2": 288, "conv3": 576, "conv4": 576}
"""Weights of the layers that are masked: 4 -> 8 -> 8 -> 8 channels."""


def by_hand(weights, gradients):
    """Operations of a step of 32 examples and two replayed batches of 32, from the numbers of active weights and of computed gradients by layer."""
    total = 0.0
    for name, macs in MACS.items():
        active, computed = (counts.get(name, 1) / MASKED.get(name, 1) for counts in (weights, gradients))
        passes = active * (1 if name == "conv1" else 2) + computed  # forward, to the inputs, to the weights
        total += (32 + 2 * 32) * 2 * macs * passes
    return total


WIDE, NARROW = {"conv2": 75, "conv3": 150, "conv4": 150}, {"conv2": 72, "conv3": 144, "conv4": 144}
"""Active weights at sparsity .74, in the first of two epochs, and at .75, in the second."""
CHOSEN = {"conv2": 58, "conv3": 115, "conv4": 115}
"""A fifth of the gradients."""
ALL = sum(MASKED.values())


def test_every_part_saves_operations(store):
    """Five steps an epoch. A mask is updated twice (8 operations per weight) and applied to gradients and to weights in every step. A gradient
    pattern is found in the first step of an epoch (3 per weight), which needs all active gradients, and applied in four others; a new mask is
    applied to it."""
    dense = by_hand(MASKED, MASKED)
    masked = 5 * by_hand(WIDE, WIDE) + 5 * by_hand(NARROW, NARROW) + 2 * 8 * ALL
    few = 2 * (3 + 4) * ALL
    expected = {
        (): 10 * dense,
        ("sparsity",): masked + 10 * 2 * ALL,
        ("keep_gradients",): 2 * dense + 8 * by_hand(MASKED, CHOSEN) + few,
        ("sparsity", "keep_gradients"): (
            by_hand(WIDE, WIDE)
            + 4 * by_hand(WIDE, CHOSEN)
            + by_hand(NARROW, NARROW)
            + 4 * by_hand(NARROW, CHOSEN)
            + 2 * 8 * ALL
            + 10 * ALL
            + few
            + ALL
        ),
    }
    parts = {"sparsity": 0.75, "keep_gradients": 0.2}
    counted = {on: second(store, **{**OFF, **{part: parts[part] for part in on}}, refresh_every=5).validation["training_flops"] for on in expected}
    assert counted == pytest.approx(expected, rel=1e-12)
    assert counted["sparsity", "keep_gradients"] < counted["sparsity",] < counted["keep_gradients",] < counted[()]
    assert second(store, **{**OFF, "remove": 0.5, "epochs": 6}).validation["training_flops"] == (5 + 4 + 3 + 3 + 2 + 2) * dense


@pytest.mark.parametrize("keep", [1.0, 0.5])
def test_the_optimizer_never_sees_gradients_of_masked_weights(store, keep, monkeypatch):
    """Momentum of Adam is there where a gradient has been; every mask since the beginning may have let one through."""
    seen, optimizers, real, make = [], [], sparcl._Sparse.before_step, loop._optimizer

    def watch(self, step):
        real(self, step)
        seen.append({name: (weight.grad != 0, self.mask.masks[name]) for name, weight in self.mask._weights.items()})

    monkeypatch.setattr(sparcl._Sparse, "before_step", watch)
    monkeypatch.setattr(loop, "_optimizer", lambda *parts: optimizers.append(make(*parts)) or optimizers[-1])
    adam = replace(samples.SETTINGS, optimizer="adam")
    context = samples.make_context(
        store, samples.make_data("second", (5, 3, 4)), parent="first", revision=store.revision("first"), epochs=2, settings=adam, learning_rate=0.001
    )
    samples.learn("sparcl", context, sparsity=0.75, keep_gradients=keep, remove=0.0)
    assert len(seen) == 10 and all(used.any() and not (used & ~mask).any() for step in seen for used, mask in step.values())
    momenta = {tuple(weight.shape): state["exp_avg"] for weight, state in optimizers[0].state.items()}
    masks = [step["conv2"][1] for step in seen]
    ever = torch.stack(masks).any(0)
    assert not ever.all() and not momenta[ever.shape][~ever].any()


def test_removed_examples_leave_fewer_steps(store):
    """160 examples in batches of 32; 80 leave in four stages of 20, before epochs 1 to 4: 5, 4, 3, 3, 2, 2 steps."""
    steps = []
    context = samples.make_context(
        store,
        samples.make_data("second", (5, 3, 4)),
        parent="first",
        revision=store.revision("first"),
        epochs=6,
        progress=lambda name, done, of: steps.append((done, of)),
    )
    samples.learn("sparcl", context, **{**OFF, "remove": 0.5})
    per_epoch = [of // 6 for _, of in steps]
    assert [per_epoch.count(count) // count for count in (5, 4, 3, 2)] == [1, 1, 2, 2]


UNITS = {"granularity": "unit", "sparsity": 0.75}
KEPT = {"conv1": 2, "conv2": 4, "conv4": 4}
"""Half of 4, 8 and 8 channels."""
ONLY_UNITS = {**OFF, **UNITS}


def small_macs(logits):
    """Of one example through channels 1 -> 2 -> 4 -> 4 -> 4 on 8 by 8 pixels, from the second layer on 4 by 4, pooled to 2 by 2, by layer."""
    return {"conv1": 64 * 9 * 1 * 2, "conv2": 16 * 9 * 2 * 4, "conv3": 16 * 9 * 4 * 4, "conv4": 16 * 9 * 4 * 4, "head": 4 * 4 * logits}


def step_flops(macs, examples):
    return examples * sum(2 * (2 if name == "conv1" else 3) * count for name, count in macs.items())


@pytest.fixture(scope="module")
def small_store(tmp_path_factory):
    """One task, learned by whole units."""
    store = Store.create(tmp_path_factory.mktemp("units") / "store", trunk=samples.trunk("seed"), graph=samples.graph(), recipe={})
    store.commit(samples.learn("sparcl", samples.make_context(store, samples.make_data()), **UNITS), {})
    return store


def test_removed_units_are_pruned_everywhere_and_take_fewer_bytes(store, small_store):
    result = second(small_store, **UNITS)
    assert {name: int(mask.sum()) for name, mask in result.unit_masks.items()} == KEPT
    for name, (rows, columns) in {"conv1": ("conv1", None), "conv2": ("conv2", "conv1"), "conv4": ("conv4", "conv2")}.items():
        active = result.layers[name].states != 0
        ins = np.ones(1, bool) if columns is None else result.unit_masks[columns]
        np.testing.assert_array_equal(active.all(axis=(2, 3)), result.unit_masks[rows][:, None] & ins)
        np.testing.assert_array_equal(active.any(axis=(2, 3)), active.all(axis=(2, 3)))
    dead = ~result.unit_masks["conv4"]
    assert not result.norms["bn4"].gain[dead].any() and not result.head.codes.reshape(6, 8, 4)[:, dead].any()
    element = second(store, sparsity=0.75)
    assert len(small_store.encode(result, {})) < len(store.encode(element, {})) < len(store.encode(second(store, **OFF), {}))


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_later_task_exchanges_the_share_of_units_that_is_asked_for(small_store, share):
    before, after = small_store.weights("first").unit_masks, second(small_store, **UNITS, redraw=share).unit_masks
    assert {name: int((mask & ~after[name]).sum()) for name, mask in before.items()} == {name: share * count for name, count in KEPT.items()}


def test_the_extracted_network_answers_as_the_one_that_was_trained(small_store):
    """The buffer holds the logits that the small network gave when its training was over, examples of both tasks."""
    result = second(small_store, **UNITS)
    store = Store.create(small_store.path.parent / "again", trunk=samples.trunk("seed"), graph=samples.graph(), recipe={})
    for task in (samples.learn("sparcl", samples.make_context(store, samples.make_data()), **UNITS), result):
        store.commit(task, {})
    buffer, data = ReplayBuffer.from_memory(store.revision("second").memory), samples.make_data("second", (5, 3, 4))
    new = buffer.width == 6
    extracted = extract(samples.factory, samples.graph(), store.weights("second"))
    with torch.no_grad():
        logits = extracted.model(normalise(buffer.x[new], data.mean, data.std))
    assert int(new.sum()) > 20 and extracted.macs == sum(small_macs(6).values())
    torch.testing.assert_close(logits, buffer.logits[new].float(), rtol=2e-3, atol=2e-3)


def test_operations_are_those_of_the_smaller_network(small_store):
    """Five steps an epoch: of the first task one epoch is dense and two are small; then two epochs of 32 examples and two replayed batches of 32."""
    dense = {layer.name: layer.macs for layer in samples.graph().layers}
    dense["head"] = dense["head"] * 3 // 6
    first = samples.learn("sparcl", samples.make_context(small_store, samples.make_data()), **ONLY_UNITS)
    assert first.validation["training_flops"] == 5 * step_flops(dense, 32) + 2 * 5 * step_flops(small_macs(3), 32)
    assert second(small_store, **ONLY_UNITS).validation["training_flops"] == 2 * 5 * step_flops(small_macs(6), 32 + 2 * 32)


def test_gradient_masks_and_data_removal_work_on_the_smaller_network(small_store):
    """A fifth of the full layers' gradients is four fifths of those that are left: 58 of 72 and 115 of 144 weights, chosen in the
    first of ten steps, which computes all."""
    plain = second(small_store, **ONLY_UNITS).validation["training_flops"]
    macs, examples = small_macs(6), 32 + 2 * 32
    unused = {"conv2": 1 - 58 / 72, "conv3": 1 - 115 / 144, "conv4": 1 - 115 / 144}
    masking = (3 + 9) * (72 + 144 + 144)
    masked = second(small_store, **{**ONLY_UNITS, "keep_gradients": 0.2}).validation["training_flops"]
    saved = 9 * examples * sum(2 * macs[name] * share for name, share in unused.items())
    assert masked == pytest.approx(plain - saved + masking)
    removed = second(small_store, **{**ONLY_UNITS, "remove": 0.5, "epochs": 6}).validation["training_flops"]
    assert removed == (5 + 4 + 3 + 3 + 2 + 2) * step_flops(macs, examples)


def test_removal_of_data_goes_on_after_units_went(small_store):
    """Steps per epoch of the first task: one dense epoch of 5, then 4, 3, 3, 2, 2."""
    steps = []
    context = samples.make_context(
        small_store, samples.make_data(), epochs=6, progress=lambda name, done, of: steps.append((name.partition(" ")[0], of))
    )
    samples.learn("sparcl", context, **{**ONLY_UNITS, "remove": 0.5})
    assert [steps.count(("dense", 5)), *(steps.count(("sparse", 5 * count)) // count for count in (4, 3, 2))] == [5, 1, 2, 2]


def test_a_store_of_single_weights_may_go_on_with_whole_units(store):
    result = second(store, **UNITS)
    assert {name: int(mask.sum()) for name, mask in result.unit_masks.items()} == KEPT


def test_a_sparsity_of_0_masks_no_unit(small_store):
    context = samples.make_context(small_store, samples.make_data())
    samples.assert_equal(samples.learn("sparcl", context, **{**OFF, "granularity": "unit"}), samples.learn("sparcl", context, **OFF))
