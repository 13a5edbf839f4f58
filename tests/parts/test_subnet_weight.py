"""The one wrapper of learning: forward and gradient by hand, and integers that are what the layer computed with."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tsn_toolkit.numerics.vectors import round_vector
from tsn_toolkit.parts import slot_factors
from tsn_toolkit.parts.slots import layer_integers
from tsn_toolkit.parts.subnet_weight import SubnetWeight, wrapped
from tsn_toolkit.parts.wrapping import attach_, detach_

GRADIENT = torch.tensor([[1.0, 2.0], [3.0, 5.0]])


def make(rule, q, present, scale, mask, *, bit_width=2, max_code=127):
    wrapper = SubnetWeight(
        torch.tensor(q),
        torch.tensor(present),
        None if scale is None else torch.tensor(scale),
        rule=rule,
        density=0.5,
        bit_width=bit_width,
        max_code=max_code,
    )
    wrapper.mask.copy_(torch.tensor(mask))
    return wrapper


def select(**changes):
    """Channel scales 0.5 and 0.25; slots 0 and 3 are inherited as 5.0 and -5.0; slot 2 is not used."""
    return make("select", [[10.0, 0.0], [0.0, -20.0]], [[True, False], [False, True]], [0.5, 0.25], [[True, True], [False, True]], **changes)


def replace(**changes):
    """All slots inherited as 5.0, 2.5, 1.25, -5.0; the task owns slots 0 and 3."""
    return make("replace", [[10.0, 5.0], [5.0, -20.0]], [[True, True], [True, True]], [0.5, 0.25], [[True, False], [False, True]], **changes)


@pytest.mark.parametrize(
    ("make_wrapper", "weight", "latent_gradient", "score_gradient"),
    [
        # used: inherited 5, own 2, nothing, inherited -5; value - base = [[5, 2], [3, -5]]; signs of the scores are [[+, -], [+, -]]
        (select, [[5.0, 2.0], [0.0, -5.0]], [[0.0, 2.0], [0.0, 0.0]], [[5.0, -4.0], [9.0, 25.0]]),
        # own 1, inherited 2.5, inherited 1.25, own -7; value - base = [[-4, -0.5], [1.75, -2]]
        (replace, [[1.0, 2.5], [1.25, -7.0]], [[1.0, 0.0], [0.0, 5.0]], [[-4.0, 1.0], [5.25, 10.0]]),
    ],
)
@pytest.mark.parametrize("cached", [2, 1 << 16])
def test_forward_and_gradients_by_hand(make_wrapper, weight, latent_gradient, score_gradient, cached, monkeypatch):
    """`cached`: gradients of scores row by row, and all rows at once."""
    monkeypatch.setattr(slot_factors, "CACHED_SLOTS", cached)
    wrapper = make_wrapper()
    wrapper.learn_scores = True
    wrapper.score.data.copy_(torch.tensor([[1.0, -1.0], [2.0, -3.0]]))
    latent = torch.tensor([[1.0, 2.0], [3.0, -7.0]], requires_grad=True)
    found = wrapper(latent)
    assert found.tolist() == weight
    (found * GRADIENT).sum().backward()
    assert latent.grad.tolist() == latent_gradient
    assert wrapper.score.grad.tolist() == score_gradient


@pytest.mark.parametrize("make_wrapper", [select, replace])
def test_scores_get_no_gradient_when_they_do_not_learn(make_wrapper):
    wrapper = make_wrapper()
    latent = torch.ones(2, 2, requires_grad=True)
    wrapper(latent).sum().backward()
    assert wrapper.score.grad is None


@pytest.mark.parametrize("make_wrapper", [select, replace])
def test_codebook_rounds_own_values_only_and_passes_the_gradient_straight_through(make_wrapper):
    wrapper = make_wrapper()
    wrapper.codebook = torch.tensor([-8.0, -3.0, 4.0, 9.0])
    # in units of q (scales 0.5, 0.25): [[2, 4.5], [1000, -5.5]]; the midpoints are -5.5, 0.5 and 6.5, and a tie goes down
    latent = torch.tensor([[1.0, 2.25], [250.0, -1.375]], requires_grad=True)
    found = wrapper(latent)
    expected = {"select": [[5.0, 2.0], [0.0, -5.0]], "replace": [[2.0, 2.5], [1.25, -2.0]]}
    assert found.tolist() == expected[wrapper.rule]
    (found * GRADIENT).sum().backward()
    own = {"select": [[0.0, 2.0], [0.0, 0.0]], "replace": [[1.0, 0.0], [0.0, 5.0]]}
    assert latent.grad.tolist() == own[wrapper.rule]


def random_wrapper(rule, seed, *, bit_width=3, max_code=127, shape=(5, 3, 2)):
    """Random frozen view, mask and latent weight; channel 1 has nothing inherited in `select`."""
    random = np.random.default_rng(seed)
    present = np.ones(shape, bool) if rule == "replace" else random.random(shape) < 0.4
    scale = random.uniform(0.001, 0.01, shape[0]).astype(np.float16).astype(np.float32)
    if rule == "select":
        present[1], scale[1] = False, 0.0
    q = np.where(present, random.integers(-max_code, max_code + 1, shape), 0)
    wrapper = SubnetWeight(
        torch.from_numpy(q.astype(np.float32)),
        torch.from_numpy(present),
        torch.from_numpy(scale),
        rule=rule,
        density=0.5,
        bit_width=bit_width,
        max_code=max_code,
    )
    wrapper.mask.copy_(torch.from_numpy(random.random(shape) < 0.6))
    wrapper.mask[1, 0, 0] = True
    return wrapper, torch.from_numpy(random.normal(0, 0.3, shape).astype(np.float32))


@pytest.mark.parametrize("rule", ["select", "replace"])
def test_straight_through_gradient_of_a_curved_loss(rule):
    wrapper, latent = random_wrapper(rule, 3)
    wrapper.learn_scores = True
    wrapper.score.data.copy_(torch.randn(latent.shape, generator=torch.Generator().manual_seed(1)))
    torch.tanh(wrapper(latent)).sum().backward()
    inherited = wrapper.inherited_q.numpy().astype(np.float64) * wrapper.scale.numpy().reshape(-1, 1, 1)
    present, own = wrapper.present.numpy(), latent.numpy().astype(np.float64)
    base = inherited if rule == "replace" else 0 * own
    value = own if rule == "replace" else np.where(present, inherited, own)
    weight = np.where(wrapper.mask.numpy(), value, base)
    expected = np.sign(wrapper.score.detach().numpy()) * (1 - np.tanh(weight) ** 2) * (value - base)
    np.testing.assert_allclose(wrapper.score.grad.numpy(), expected, rtol=1e-4, atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(rule=st.sampled_from(["select", "replace"]), seed=st.integers(0, 10**6), bit_width=st.integers(1, 8), max_code=st.sampled_from([63, 127]))
def test_finish_gives_exactly_what_the_layer_computed_with(rule, seed, bit_width, max_code):
    wrapper, latent = random_wrapper(rule, seed, bit_width=bit_width, max_code=max_code)
    wrapper.fix_scale_(latent)
    wrapper.fit_codebook_(latent)
    codes = wrapper.finish(latent)
    q = wrapper.inherited_q.numpy() * (codes.states == 1)
    q[codes.states == 2] = codes.codebook[codes.codes]
    np.testing.assert_array_equal(q.astype(np.float32) * codes.scale.reshape(-1, 1, 1), wrapper(latent).numpy())
    mask, present = wrapper.mask.numpy(), wrapper.present.numpy()
    expected = np.where(mask, 2, 1) if rule == "replace" else np.where(mask, np.where(present, 1, 2), 0)
    np.testing.assert_array_equal(codes.states, expected)
    assert codes.codebook.shape == (2**bit_width,) and np.abs(codes.codebook.astype(int)).max() <= max_code
    assert (codes.scale > 0).all()


@pytest.mark.parametrize("rule", ["select", "replace"])
def test_weights_outside_the_own_slots_do_not_leak(rule):
    wrapper, latent = random_wrapper(rule, 5)
    other, _ = random_wrapper(rule, 5)
    own = wrapper.mask if rule == "replace" else wrapper.mask & ~wrapper.present
    loud = torch.where(own, latent, torch.full_like(latent, 1e4))
    for target, values in ((wrapper, latent), (other, loud)):
        target.fix_scale_(values)
        target.fit_codebook_(values)
    assert own[1].any() and not own.all()
    for name, found in vars(other.finish(loud)).items():
        np.testing.assert_array_equal(found, getattr(wrapper.finish(latent), name), err_msg=name)
    assert torch.equal(wrapper(latent), other(loud))


def test_fix_scale_keeps_inherited_scales_and_gives_headroom_to_fresh_ones():
    wrapper = make(
        "select",
        [[7.0, 0.0], [0.0, 0.0], [0.0, 0.0]],
        [[True, False], [False, False], [False, False]],
        [0.5, 0.0, 0.0],
        [[True, True], [True, False], [False, False]],
    )
    wrapper.fix_scale_(torch.tensor([[9.0, 9.0], [-2.0, 8.0], [1.0, -4.0]]))
    # channel 0 is inherited; the largest own weight of channel 1 is 2; channel 2 uses nothing, so its largest weight counts; headroom is 1.5
    np.testing.assert_allclose(wrapper.scale.numpy(), [0.5, 2 * 1.5 / 127, 4 * 1.5 / 127], rtol=2**-11)


def test_a_layer_that_owns_nothing_has_an_empty_list_of_codes():
    wrapper = make("select", [[10.0, 3.0]], [[True, True]], [0.5], [[True, True]])
    latent = torch.ones(1, 2)
    wrapper.fix_scale_(latent)
    wrapper.fit_codebook_(latent)
    codes = wrapper.finish(latent)
    assert codes.codes.shape == (0,) and codes.states.tolist() == [[1, 1]] and codes.bit_width == 0 and codes.codebook.shape == (0,)
    assert wrapper(latent).tolist() == [[5.0, 1.5]]


def test_refresh_mask_takes_the_largest_scores_or_the_ranking_given():
    wrapper = select()
    wrapper.score.data.copy_(torch.tensor([[1.0, -3.0], [2.0, 0.5]]))
    wrapper.refresh_mask_()
    assert wrapper.mask.tolist() == [[False, True], [True, False]]
    wrapper.refresh_mask_(torch.tensor([[1.0, 1.0], [0.0, 1.0]]))
    assert wrapper.mask.tolist() == [[True, True], [False, False]]


@pytest.mark.parametrize(("granularity", "mask"), [("block(2)", [[1, 1, 0, 0]]), ("1:2", [[0, 1, 0, 1]]), ("unit", [[1, 1, 1, 1]])])
def test_refresh_mask_keeps_to_the_granularity(granularity, mask):
    wrapper = SubnetWeight(
        torch.zeros(1, 4), torch.zeros(1, 4, dtype=torch.bool), None, rule="select", density=0.5, bit_width=2, max_code=127, granularity=granularity
    )
    wrapper.score.data.copy_(torch.tensor([[2.0, -3.0, 0.0, 4.0]]))
    wrapper.refresh_mask_()
    assert wrapper.mask.int().tolist() == mask
    wrapper.fix_scale_(torch.ones(1, 4))
    wrapper.fit_codebook_(torch.ones(1, 4))
    assert wrapper.finish(torch.ones(1, 4)).granularity == granularity


def test_a_bonus_in_units_of_the_root_mean_square_prefers_slots():
    wrapper = select()
    wrapper.score.data.copy_(torch.tensor([[1.0, -1.0], [5.0, 3.0]]))  # root mean square 3
    wrapper.preferred.copy_(torch.tensor([[True, False], [False, False]]))
    for bonus, mask in ((0.0, [[False, False], [True, True]]), (0.6, [[False, False], [True, True]]), (0.7, [[True, False], [True, False]])):
        wrapper.bonus = bonus
        wrapper.refresh_mask_()
        assert wrapper.mask.tolist() == mask
    np.testing.assert_allclose(wrapper.ranking(), [[1 + 0.7 * 3, 1.0], [5.0, 3.0]], rtol=1e-6)


def refining(q, *, refine_bits=1, max_code=127):
    """One channel of inherited slots at scale 0.5 and a last slot that nobody owns."""
    present = torch.tensor([[True] * (len(q) - 1) + [False]])
    wrapper = SubnetWeight(
        torch.tensor([q]), present, torch.tensor([0.5]), rule="select", density=1.0, bit_width=2, max_code=max_code, refine_bits=refine_bits
    )
    wrapper.learn_scores = True
    return wrapper, wrapper.inherited_q * 0.5


def test_while_searching_inherited_slots_drift_but_the_layer_computes_with_what_is_inherited():
    wrapper, latent = refining([10.0, -20.0, 0.0])
    latent[0, 2] = 3.0
    wrapper.mask[0, 1] = False
    drifted = (latent + torch.tensor([[1.0, 1.0, 0.0]])).requires_grad_()
    found = wrapper(drifted)
    assert found.tolist() == [[5.0, 0.0, 3.0]]
    found.sum().backward()
    assert drifted.grad.tolist() == [[1.0, 0.0, 1.0]], "used inherited slots have a gradient, unused ones none"
    plain, _ = refining([10.0, -20.0, 0.0], refine_bits=0)
    plain(drifted).sum().backward()
    assert drifted.grad.tolist() == [[1.0, 0.0, 2.0]], "nothing drifts without refinement"


def test_the_slots_that_drifted_furthest_are_refined_and_the_others_go_back():
    wrapper, latent = refining([10.0, -20.0, 30.0, 100.0, 4.0, 0.0])
    latent = latent + torch.tensor([[2.0, -3.0, 9.0, 50.0, 1.0, 6.0]])
    wrapper.mask[0, 2] = False  # not used
    wrapper.choose_refined_(latent, 0.5)  # of 4 used inherited slots; the one at 100 has no room
    wrapper.learn_scores = False
    assert wrapper.refined.tolist() == [[True, True, False, False, False, False]]
    assert latent.tolist() == [[7.0, -13.0, 15.0, 50.0, 2.0, 6.0]]
    wrapper.fit_codebook_(latent)
    assert wrapper.residuals.tolist() == [-6.0, 4.0]
    leaf = latent.clone().requires_grad_()
    found = wrapper(leaf)
    assert found.tolist() == [[7.0, -13.0, 0.0, 50.0, 2.0, 6.0]]
    found.sum().backward()
    assert leaf.grad.tolist() == [[1.0, 1.0, 0.0, 0.0, 0.0, 1.0]]
    codes = wrapper.finish(latent)
    assert codes.states.tolist() == [[3, 3, 0, 1, 1, 2]] and codes.refinement.codes.tolist() == [1, 0]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), refine_bits=st.integers(1, 8), share=st.floats(0.05, 1), max_code=st.sampled_from([40, 63, 127]))
def test_refined_layers_finish_with_exactly_what_they_computed_with(seed, refine_bits, share, max_code):
    wrapper, latent = random_wrapper("select", seed, max_code=max_code)
    wrapper.refine_bits = refine_bits
    wrapper.choose_refined_(latent, share)
    wrapper.fix_scale_(latent)
    wrapper.fit_codebook_(latent)
    codes = wrapper.finish(latent)
    q = layer_integers(codes, wrapper.inherited_q.numpy().astype(np.int8))
    np.testing.assert_array_equal(q.astype(np.float32) * codes.scale.reshape(-1, 1, 1), wrapper(latent).numpy())
    used = (wrapper.mask & wrapper.present).numpy()
    able = used & (wrapper.inherited_q.abs() <= max_code // 2).numpy()
    assert (codes.states == 3).sum() == min(max(1, round(share * used.sum())) if used.any() else 0, able.sum())
    assert not (codes.states == 3)[~able].any() and np.abs(q.astype(int)).max() <= max_code
    if codes.refinement is not None:
        assert codes.refinement.codebook.shape == (2**refine_bits,) and codes.refinement.codes.shape == ((codes.states == 3).sum(),)


def test_over_a_full_view_nothing_is_refined():
    wrapper = SubnetWeight(
        torch.ones(1, 2), torch.ones(1, 2, dtype=torch.bool), torch.ones(1), rule="replace", density=0.5, bit_width=2, max_code=127, refine_bits=3
    )
    assert wrapper.refine_bits == 0


def test_attach_and_detach():
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    before = model[0].weight.detach().clone()
    attach_(model[0], select())
    ((name, wrapper, latent),) = wrapped(model)
    assert name == "0" and torch.equal(latent, before) and wrapper.mask[0, 1]
    effective = model[0].weight.detach().clone()
    assert effective[1].tolist() == [0.0, -5.0] and effective[0, 1] == before[0, 1]
    detach_(model)
    assert not list(wrapped(model)) and torch.equal(model[0].weight, effective) and isinstance(model[0].weight, nn.Parameter)


@pytest.mark.parametrize("rule", ["select", "replace"])
@pytest.mark.parametrize("precision", ["half", "int8"])
def test_a_channel_that_reads_nothing_gets_a_scale_of_its_own(rule, precision):
    wrapper, latent = random_wrapper(rule, 7, shape=(4, 6, 1))
    inherited = wrapper.scale.clone()
    wrapper.mask[2] = True if rule == "replace" else ~wrapper.present[2]  # reads nothing
    wrapper.mask[3], wrapper.present[3] = True, True
    wrapper.mask[3, 1] = rule == "select"  # reads at least one value
    wrapper.fix_scale_(latent, precision)
    np.testing.assert_array_equal(round_vector(wrapper.scale.numpy(), precision), wrapper.scale.numpy())
    own = (latent * wrapper.mask)[2].abs().max()
    step = 0.01 if precision == "int8" else 0.001
    assert float(wrapper.scale[2]) == pytest.approx(1.5 * float(own) / 127, rel=2 * step)
    assert float(wrapper.scale[3]) == pytest.approx(float(inherited[3]), rel=0.5 if precision == "int8" else step)
