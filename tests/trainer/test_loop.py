"""The one training loop: rates, batches, reproducible weights, the selected checkpoint, evaluation, norm statistics."""

import copy
from dataclasses import replace
from math import cos, isnan, log, pi

import learning_samples as samples
import numpy as np
import pytest
import torch
from torch import nn

from tsn_toolkit.contracts import Split, TaskData
from tsn_toolkit.errors import LearningError
from tsn_toolkit.parts.subnet_weight import SubnetWeight, wrapped
from tsn_toolkit.parts.wrapping import attach_
from tsn_toolkit.trainer.loop import Phase, evaluate, fit, plain_batches, predict, rate_at, spread_batches, training_batches
from tsn_toolkit.trainer.norms import reestimate_norms_, restate_norms_
from tsn_toolkit.trainer.training_hooks import TrainingHooks


def all_parameters(model):
    return [{"params": list(model.parameters())}]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("schedule", "step", "steps", "share"),
    [
        ("rise", 0, 10, 0.1 + 0.9 * 0.05),
        ("rise", 9, 10, 0.1 + 0.9 * 0.95),
        ("fall", 0, 2, (1 + cos(pi / 4)) / 2),
        ("fall", 1, 2, (1 - cos(pi / 4)) / 2),
        ("hill", 0, 10, 0.1 + 0.9 * 0.25),  # a twentieth of the phase is a quarter of the rise
        ("hill", 1, 10, 0.1 + 0.9 * 0.75),
        ("hill", 5, 10, (1 + cos(pi * 0.4375)) / 2),
        ("hill", 0, 1, (1 + cos(pi * 0.375)) / 2),
    ],
)
def test_rates_by_hand(schedule, step, steps, share):
    assert rate_at(Phase("x", 1, 0.2, schedule), step, steps) == pytest.approx(0.2 * share, rel=1e-12)


def test_training_batches_are_a_seeded_shuffle_without_repetition():
    data = samples.make_data(train=70)
    numbered = replace(data, train=Split(torch.arange(70, dtype=torch.float32).view(70, 1, 1, 1), torch.arange(70)), mean=(), std=())
    batches = list(training_batches(numbered, samples.SETTINGS, generator(5), 2))
    seen = torch.cat([y for _, _, y in batches])
    assert [len(y) for _, _, y in batches] == [32, 32] and len(set(seen.tolist())) == 64
    assert all(torch.equal(x.flatten().long(), y) for _, x, y in batches)
    again = torch.cat([y for _, _, y in training_batches(numbered, samples.SETTINGS, generator(5), 2)])
    other = torch.cat([y for _, _, y in training_batches(numbered, samples.SETTINGS, generator(6), 2)])
    assert torch.equal(seen, again) and not torch.equal(seen, other)


def test_augmented_batches_follow_from_the_generator_alone():
    data = samples.make_data(train=64)
    settings = replace(samples.SETTINGS, augment=("crop",))
    first, again = ([x for _, x, _ in training_batches(data, settings, generator(2), 2)] for _ in range(2))
    plain = [x for _, x, _ in training_batches(data, samples.SETTINGS, generator(2), 2)]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], plain[0])


def test_fewer_examples_than_a_batch_make_one_short_batch():
    data = samples.make_data(train=5)
    assert [len(y) for _, _, y in training_batches(data, samples.SETTINGS, generator(), 1)] == [5]
    steps, model = [], nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    hooks = TrainingHooks(after_step=steps.append)
    fit(model, data, Phase("x", 2, 0.1), samples.SETTINGS, parameters=all_parameters(model), generator=generator(), hooks=hooks)
    assert steps == [0, 1]


def fit_once(seed, **changes):
    model, data = samples.factory(), samples.make_data()
    settings = replace(samples.SETTINGS, **changes)
    history = fit(model, data, Phase("x", 2, 0.1), settings, parameters=all_parameters(model), generator=generator(seed))
    return model.state_dict(), history


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_fit_gives_the_same_bits_for_the_same_seed(optimizer):
    state, history = fit_once(1, optimizer=optimizer)
    again, same = fit_once(1, optimizer=optimizer)
    other, _ = fit_once(2, optimizer=optimizer)
    assert all(torch.equal(state[name], again[name]) for name in state) and history == same
    assert not torch.equal(state["conv1.weight"], other["conv1.weight"])
    assert history[1]["loss"] < history[0]["loss"]


def test_one_sgd_step_by_hand():
    """weight decay, the group's own rate and the schedule, against the formula written out."""
    data = samples.make_data(train=32)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    before = [p.detach().double().clone() for p in model.parameters()]
    ((_, x, y),) = training_batches(data, samples.SETTINGS, generator(3), 1)
    x = x.flatten(1).double()
    probability = torch.softmax(x @ before[0].T + before[1], 1)
    target = torch.nn.functional.one_hot(y, 3).double() * 0.9 + 0.1 / 3
    error = (probability - target) / 32
    gradients = [error.T @ x + 0.01 * before[0], error.sum(0) + 0.01 * before[1]]
    settings = replace(samples.SETTINGS, weight_decay=0.01, label_smoothing=0.1)
    weight, bias = model.parameters()
    groups = [{"params": [weight]}, {"params": [bias], "rate": 3.0}]
    fit(model, data, Phase("x", 1, 0.2, "fall"), settings, parameters=groups, generator=generator(3))
    rate = 0.2 * 0.5  # the middle of a falling cosine
    for parameter, old, gradient, factor in zip((weight, bias), before, gradients, (1, 3), strict=True):
        expected = old - factor * rate * 1.9 * gradient  # Nesterov: the first step is gradient + 0.9 * gradient
        np.testing.assert_allclose(parameter.detach().numpy(), expected.numpy(), rtol=1e-4, atol=1e-6)


def test_adam_decays_apart_from_the_gradient():
    model, data = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), samples.make_data(train=32)
    twin = copy.deepcopy(model)
    for net, decay in ((model, 0.5), (twin, 0.0)):
        settings = replace(samples.SETTINGS, optimizer="adam", weight_decay=decay)
        start = net[1].weight.detach().clone()
        fit(net, data, Phase("x", 1, 0.2, "fall"), settings, parameters=all_parameters(net), generator=generator(3))
    np.testing.assert_allclose((model[1].weight - twin[1].weight).detach(), -0.1 * 0.5 * start, atol=1e-6)


def test_callbacks_and_extra_loss():
    data, steps, shown = samples.make_data(), [], []
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    still = [{"params": list(model.parameters()), "rate": 0.0}]
    plain = fit(model, data, Phase("x", 2, 0.1), samples.SETTINGS, parameters=still, generator=generator())
    history = fit(
        model,
        data,
        Phase("name", 2, 0.1),
        samples.SETTINGS,
        parameters=still,
        generator=generator(),
        progress=lambda *now: shown.append(now),
        hooks=TrainingHooks(after_step=steps.append, extra_loss=lambda x: torch.tensor(len(x) / 8)),
    )
    assert steps == list(range(10)) and shown[0] == ("name", 1, 10) and shown[-1] == ("name", 10, 10)
    assert history[0]["loss"] == pytest.approx(plain[0]["loss"] + 4)
    assert history[0]["validation_loss"] == plain[0]["validation_loss"]


def test_every_hook_is_called_in_its_place():
    data, model, calls = samples.make_data(train=64), nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), []

    class FirstHalf:
        def chosen(self, epoch):
            calls.append(("chosen", epoch))
            return torch.arange(32)

        def observe(self, positions, correct):
            calls.append(("observe", len(positions), correct.dtype))

    def gradients(x, y):
        logits = model(x)
        torch.nn.functional.cross_entropy(logits, y).backward()
        calls.append(("gradients", len(x)))
        return 7.0, logits.detach()

    def make_optimizer(groups):
        calls.append(("optimizer", len(groups)))
        return torch.optim.SGD(groups, lr=0.0)

    start, moved = model[1].weight.detach().clone(), []
    hooks = TrainingHooks(
        examples=FirstHalf(),
        gradients=gradients,
        make_optimizer=make_optimizer,
        before_epoch=lambda epoch: calls.append(("before epoch", epoch)),
        before_step=lambda step: (calls.append(("before step", step)), moved.append(not torch.equal(model[1].weight, start))),
        after_step=lambda step: (calls.append(("after step", step)), moved.append(not torch.equal(model[1].weight, start))),
    )
    history = fit(model, data, Phase("x", 2, 0.1), samples.SETTINGS, parameters=all_parameters(model), generator=generator(), hooks=hooks)
    epochs = [
        [("before epoch", n), ("chosen", n), ("gradients", 32), ("observe", 32, torch.bool), ("before step", n), ("after step", n)] for n in (0, 1)
    ]
    assert calls == [("optimizer", 1), *epochs[0], *epochs[1]]
    assert moved == [False, True, True, True] and [record["loss"] for record in history] == [7.0, 7.0]
    calls.clear()
    later = Phase("x", 1, 0.1, first_epoch=4)
    fit(model, data, later, samples.SETTINGS, parameters=all_parameters(model), generator=generator(), hooks=hooks)
    assert calls[1:3] == [("before epoch", 4), ("chosen", 4)] and ("before step", 0) in calls


def test_logits_that_do_not_compete_take_no_part_in_loss_and_accuracy():
    data, model = samples.make_data(), nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    hooks = TrainingHooks(visible=lambda logits, y: logits.masked_fill(torch.arange(3) != y[:, None], -torch.inf))
    (record,) = fit(model, data, Phase("x", 1, 0.1), samples.SETTINGS, parameters=all_parameters(model), generator=generator(), hooks=hooks)
    assert record == {"loss": 0.0, "validation_loss": 0.0, "validation_accuracy": 1.0}


@pytest.mark.parametrize("train_norms", [True, False])
def test_norm_statistics_stay_when_norms_are_not_trained(train_norms):
    model = samples.factory()
    before = model.bn1.running_mean.clone()
    phase, parameters = Phase("x", 1, 0.1), all_parameters(model)
    fit(model, samples.make_data(), phase, samples.SETTINGS, parameters=parameters, generator=generator(), train_norms=train_norms)
    assert torch.equal(model.bn1.running_mean, before) != train_norms


# ---------------------------------------------------------------------------------------------------------- the selected checkpoint


def separable_data():
    """Label = sign of the first of two features, weights outside it only disturb."""
    x = torch.randn(96, 2, generator=generator(0))
    split = Split(x, (x[:, 0] > 0).long())
    return TaskData("axis", (0, 1), split, split, split)


MASKS = ([[False, True], [False, True]], [[True, False], [True, False]], [[True, True], [True, True]])
CODEBOOKS = ([-4.0, -1.0, 1.0, 4.0], [-9.0, -1.0, 1.0, 9.0], [-2.0, -1.0, 1.0, 2.0])
"""One per epoch; the second is the best: only the first feature, largest weights."""


@pytest.mark.parametrize(("select_best", "kept"), [(True, 1), (False, 2)])
def test_the_mask_and_codebook_kept_are_those_of_the_selected_checkpoint(select_best, kept):
    model = nn.Sequential(nn.Linear(2, 2, bias=False))
    model[0].weight.data.copy_(torch.tensor([[-5.0, 3.0], [5.0, 3.0]]))
    nothing = torch.zeros(2, 2)
    wrapper = SubnetWeight(nothing, nothing.bool(), torch.ones(2), rule="select", density=0.5, bit_width=2, max_code=127)
    wrapper.codebook = torch.tensor([-1.0, -1.0, 1.0, 1.0])
    attach_(model[0], wrapper)
    data = separable_data()

    def change(step):
        if (step + 1) % 3 == 0:
            wrapper.mask.copy_(torch.tensor(MASKS[step // 3]))
            wrapper.codebook = torch.tensor(CODEBOOKS[step // 3])

    history = fit(
        model,
        data,
        Phase("codes", 3, 0.0, "fall", select_best=select_best),
        replace(samples.SETTINGS, weight_decay=0.0),
        parameters=all_parameters(model),
        generator=generator(),
        hooks=TrainingHooks(after_step=change),
    )
    losses = [record["validation_loss"] for record in history]
    assert min(losses) == losses[1] < losses[2] < losses[0]
    assert wrapper.mask.tolist() == MASKS[kept] and wrapper.codebook.tolist() == CODEBOOKS[kept]
    assert evaluate(model, data.validation, data, samples.CPU)[0] == losses[kept]
    ((_, _, latent),) = wrapped(model)
    np.testing.assert_array_equal(wrapper.finish(latent).states == 2, MASKS[kept])
    assert wrapper.finish(latent).codebook.tolist() == CODEBOOKS[kept]


def test_a_diverged_epoch_is_never_selected():
    model = nn.Sequential(nn.Linear(2, 2, bias=False))

    def change(step):
        model[0].weight.data.fill_(float("nan") if step < 3 else float(step))

    history = fit(
        model,
        separable_data(),
        Phase("x", 3, 0.0, select_best=True),
        samples.SETTINGS,
        parameters=all_parameters(model),
        generator=generator(),
        hooks=TrainingHooks(after_step=change),
    )
    assert isnan(history[0]["validation_loss"]) and not isnan(history[1]["validation_loss"])
    assert not model[0].weight.isnan().any()


def test_training_that_diverged_says_so():
    model = nn.Sequential(nn.Linear(2, 2, bias=False))
    phase = Phase("search", 1, 3.0)
    with pytest.raises(LearningError, match=r"diverged in phase `search`: `0\.weight` .*learning rate 3\)\. Lower `training\.learning_rate`"):
        fit(
            model,
            separable_data(),
            phase,
            samples.SETTINGS,
            parameters=all_parameters(model),
            generator=generator(),
            hooks=TrainingHooks(after_step=lambda _: model[0].weight.data.fill_(float("inf"))),
        )


# ------------------------------------------------------------------------------------------------------------- evaluation and norms


def test_evaluate_by_hand_and_puts_the_mode_back():
    x = torch.tensor([[2.0, 0.0], [0.0, 2.0], [0.0, 0.0]])
    split = Split(x, torch.tensor([0, 0, 1]))
    data = TaskData("x", (0, 1), split, split, split)
    model = nn.Identity().train()
    loss, accuracy = evaluate(model, split, data, samples.CPU)
    expected = (log(1 + np.exp(-2)) + log(1 + np.exp(2)) + log(2)) / 3
    assert loss == pytest.approx(expected, rel=1e-6) and accuracy == pytest.approx(1 / 3)  # a tie is class 0
    assert model.training
    assert torch.equal(predict(model, split, data, samples.CPU), x)


def test_evaluate_sums_over_batches_of_unequal_size():
    data = samples.make_data(held=300)
    loss, accuracy = evaluate(samples.trained_net(), data.validation, data, samples.CPU)
    logits = predict(samples.trained_net(), data.validation, data, samples.CPU)
    log_probability = torch.log_softmax(logits.double(), 1)[range(300), data.validation.y]
    assert loss == pytest.approx(-float(log_probability.mean()), rel=1e-5)
    assert accuracy == float((logits.argmax(1) == data.validation.y).double().mean())


def test_evaluate_of_an_empty_split_is_not_a_number():
    data = samples.make_data()
    empty = Split(data.test.x[:0], data.test.y[:0])
    assert all(isnan(value) for value in evaluate(samples.factory(), empty, data, samples.CPU))


def test_plain_batches_keep_order_and_the_short_last_batch():
    data = samples.make_data(train=10)
    batches = list(plain_batches(data.train, data, 4, samples.CPU))
    assert [len(y) for _, y in batches] == [4, 4, 2] and torch.equal(torch.cat([y for _, y in batches]), data.train.y)
    np.testing.assert_allclose(batches[2][0][1].numpy(), (data.train.x[9].numpy() / 255 - 0.5) / 0.25, rtol=1e-5, atol=1e-6)


def test_reestimated_norms_are_the_plain_average_over_batches():
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2)).eval()
    model[1].running_mean.fill_(100.0)  # what was there before must not count
    model[1].momentum = 0.3
    batches = list(torch.randn(3, 5, 1, 6, 6, generator=generator(1)).unbind())
    means, variances = [], []
    with torch.no_grad():
        for x in batches:
            y = model[0](x).double()
            m, v = y.mean((0, 2, 3)), y.var((0, 2, 3), unbiased=False)
            z = (y - m.view(1, -1, 1, 1)) / (v.view(1, -1, 1, 1) + 1e-5).sqrt()  # later layers see what the batch's own statistics give
            z = model[3](z.relu().float()).double()
            means.append((m, z.mean((0, 2, 3))))
            variances.append((y.var((0, 2, 3)), z.var((0, 2, 3))))
    reestimate_norms_(model.train(), batches)
    for index, norm in enumerate((model[1], model[4])):
        np.testing.assert_allclose(norm.running_mean, torch.stack([m[index] for m in means]).mean(0), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(norm.running_var, torch.stack([v[index] for v in variances]).mean(0), rtol=1e-4)
    assert model[1].momentum == 0.3 and not model.training and not model[1].training


def test_nothing_to_reestimate_leaves_statistics_alone():
    model = nn.Sequential(nn.BatchNorm1d(2))
    model[0].running_mean.fill_(3.0)
    reestimate_norms_(model, [])
    assert model[0].running_mean.tolist() == [3.0, 3.0]


def test_restated_norms_compute_the_same_and_have_the_inputs_statistics():
    generator = torch.Generator().manual_seed(3)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)).eval()
    for norm in (model[1], model[4]):
        norm.weight.data.uniform_(0.5, 20.0, generator=generator)
        norm.bias.data.normal_(generator=generator)
    x = torch.randn(16, 1, 8, 8, generator=generator)
    before = model(x)
    restate_norms_(model, x)
    torch.testing.assert_close(model(x), before, rtol=1e-4, atol=1e-4)
    for norm in (model[1], model[4]):
        assert not torch.equal(norm.running_var, torch.ones(4))
    features = model[0](x)
    torch.testing.assert_close(model[1].running_mean, features.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.train()(x), before, rtol=1e-3, atol=1e-3)  # the batch's own statistics are now the running ones


def test_restating_a_norm_whose_input_never_varies_undoes_its_folding():
    norm = nn.BatchNorm2d(2).eval()
    norm.weight.data.fill_(float(norm.eps**-0.5))
    norm.running_var.fill_(1.0 - norm.eps)
    restate_norms_(norm, torch.zeros(4, 2, 3, 3))
    torch.testing.assert_close(norm.weight.data, torch.ones(2))


@pytest.mark.parametrize(
    ("size", "count", "expected"), [(8, 2, [range(0, 32, 4), range(32, 64, 4)]), (32, 4, [range(32), range(32, 64), range(64, 70)])]
)
def test_spread_batches_by_hand(size, count, expected):
    """70 examples: for 2 batches of 8 every fourth is taken; for 4 batches of 32 all are, and there are only 3."""
    data = samples.make_data(train=70)
    numbered = replace(data, train=Split(torch.arange(70, dtype=torch.float32).view(70, 1, 1, 1), torch.arange(70)), mean=(), std=())
    batches = spread_batches(numbered, size, count, samples.CPU)
    assert [y.tolist() for _, y in batches] == [list(positions) for positions in expected]
    assert all(torch.equal(x.flatten(), y.float()) for x, y in batches)
