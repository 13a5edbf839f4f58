"""Which gradients stay, for how long, and the operations that choosing takes."""

import torch
from op_count import numbers_in

from tsn_toolkit.parts import gradient_mask
from tsn_toolkit.parts.gradient_mask import GradientMask


def weight_with(gradient):
    weight = torch.nn.Parameter(torch.zeros_like(gradient))
    weight.grad = gradient.clone()
    return weight


def test_the_largest_of_all_slots_stay_and_the_pattern_holds_until_it_is_new():
    first, second = torch.tensor([[1.0, -5.0, 3.0, 0.5, -4.0]]), torch.tensor([[9.0, 1.0, 1.0, 9.0, 1.0]])
    weight = weight_with(first)
    mask = GradientMask({"w": weight}, keep=0.4, refresh_every=3)
    mask.apply_(0, {})
    assert weight.grad.tolist() == [[0, -5, 0, 0, -4]] and mask.densities == {"w": 0.4}
    for step, kept in ((1, [[0, 1, 0, 0, 1]]), (2, [[0, 1, 0, 0, 1]]), (3, [[9, 0, 0, 9, 0]])):
        weight.grad = second.clone()
        mask.apply_(step, {})
        assert weight.grad.tolist() == kept


def test_only_active_slots_are_chosen_and_no_more_than_there_are():
    weight = weight_with(torch.tensor([8.0, 7.0, 1.0, 2.0]))
    active = {"w": torch.tensor([False, True, False, True])}
    GradientMask({"w": weight}, keep=0.25, refresh_every=1).apply_(0, active)
    assert weight.grad.tolist() == [0, 7, 0, 0]
    weight.grad = torch.tensor([8.0, 7.0, 1.0, 2.0])
    mask = GradientMask({"w": weight}, keep=0.9, refresh_every=1)
    mask.apply_(0, active)
    assert weight.grad.tolist() == [0, 7, 0, 2] and mask.densities == {"w": 0.5}


def test_operations_are_those_that_run():
    weight = weight_with(torch.randn(7, 9))
    mask = GradientMask({"w": weight}, keep=0.3, refresh_every=2)
    for step in (0, 1):
        assert numbers_in(lambda: mask.apply_(step, {}), ("abs", "mul"), gradient_mask) == mask.operations(step)  # noqa: B023
    assert (mask.operations(0), mask.operations(1)) == (189, 63)


def test_the_fraction_may_be_of_more_slots_than_are_left():
    weight = weight_with(torch.tensor([8.0, 7.0, 1.0, 2.0]))
    mask = GradientMask({"w": weight}, keep=0.25, refresh_every=1, slots={"w": 12})
    mask.apply_(0, {})
    assert weight.grad.tolist() == [8, 7, 0, 2] and mask.densities == {"w": 0.75}
    weight.grad = torch.tensor([8.0, 7.0, 1.0, 2.0])
    GradientMask({"w": weight}, keep=0.25, refresh_every=1, slots={"w": 40}).apply_(0, {})
    assert weight.grad.tolist() == [8, 7, 1, 2], "no more than there are"


def test_a_step_that_finds_a_pattern_computes_all_gradients():
    weight = weight_with(torch.tensor([8.0, 7.0, 1.0, 2.0]))
    mask = GradientMask({"w": weight}, keep=0.25, refresh_every=2)
    mask.apply_(0, {})
    assert [mask.computed(step) for step in (0, 1, 2)] == [{}, {"w": 0.25}, {}]


def test_what_is_masked_later_leaves_the_pattern():
    weight = weight_with(torch.tensor([8.0, 7.0, 1.0, 2.0]))
    mask, active = GradientMask({"w": weight}, keep=0.5, refresh_every=9), {"w": torch.tensor([False, True, True, True])}
    assert mask.keep_within_(active) == 0, "no pattern yet"
    mask.apply_(0, {})
    assert mask.keep_within_(active) == 4 and mask.densities == {"w": 0.25}
    weight.grad = torch.tensor([8.0, 7.0, 1.0, 2.0])
    mask.apply_(1, active)
    assert weight.grad.tolist() == [0, 7, 0, 0]
