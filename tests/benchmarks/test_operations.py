"""Counted operations of training against the formula, worked by hand."""

import pytest
import torch
from harness.operations import OperationCounter
from harness.wsn_fp32 import WinningWeight
from torch import nn
from torch.nn.utils import parametrize

from tsn_toolkit.contracts import LayerRecord
from tsn_toolkit.parts.pruning_candidates import PruningCandidates
from tsn_toolkit.parts.sharpness_step import sharpness_gradients
from tsn_toolkit.parts.subnet_weight import SubnetWeight
from tsn_toolkit.parts.training_cost import TrainingCost
from tsn_toolkit.parts.wrapping import attach_

EXAMPLES = 5


def net() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(2, 4, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 4 * 4, 6), nn.Linear(6, 3))


def counted(model: nn.Module, shape: tuple[int, ...] = (2, 6, 6)) -> float:
    with OperationCounter() as counter:
        model(torch.randn(EXAMPLES, *shape)).sum().backward()
        torch.optim.SGD(model.parameters(), lr=0.0).step()
        with torch.no_grad():
            model(torch.randn(EXAMPLES, *shape))
    model(torch.randn(EXAMPLES, *shape))  # after the context: not counted
    return counter.flops


def test_dense_training_costs_two_operations_per_weight_and_pass():
    conv, linear, head = 16 * 4 * 18, 64 * 6, 18
    assert counted(net()) == EXAMPLES * 2 * (2 * conv + 3 * linear + 3 * head)


def test_it_agrees_with_what_a_strategy_counts_itself():
    layers = [
        LayerRecord(name=name, kind=kind, shape=shape, macs=macs)
        for name, kind, shape, macs in (("0", "conv", (4, 2, 3, 3), 1152), ("3", "linear", (6, 64), 384), ("4", "linear", (3, 6), 18))
    ]
    cost = TrainingCost(layers, head="4", logits=3)
    cost.add_step(EXAMPLES, {}, {})
    assert counted(net()) == cost.flops


def test_weights_that_are_not_trained_need_no_gradient():
    model = nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 2))
    model[0].requires_grad_(False)
    assert counted(model, (8,)) == EXAMPLES * 2 * (32 + 2 * 8), "the first layer passes forward alone"


def test_masked_layers_count_by_their_masks():
    layer = nn.Linear(10, 4, bias=False)
    present = torch.zeros(4, 10, dtype=torch.bool)
    present[:2] = True
    wrapper = SubnetWeight(torch.ones(4, 10), present, torch.ones(4), rule="select", density=0.5, bit_width=4, max_code=127)
    attach_(layer, wrapper)
    wrapper.mask.copy_(torch.arange(40).view(4, 10) % 2 == 0)
    passes = EXAMPLES * 2 * 40
    assert counted(nn.Sequential(layer), (10,)) == passes * (0.5 + 0.25), "half is used; half of that is the task's own and trained"
    wrapper.learn_scores = True
    assert counted(nn.Sequential(layer), (10,)) == passes * (0.5 + 1.0), "scores of unused weights have gradients too"


def test_winning_weights_count_by_their_masks():
    layer = nn.Linear(10, 4, bias=False)
    parametrize.register_parametrization(layer, "weight", WinningWeight(layer.weight, 0.1))
    assert counted(nn.Sequential(layer), (10,)) == pytest.approx(EXAMPLES * 2 * 40 * (0.1 + 1.0))


def one_step(model: nn.Module, *, teacher: nn.Module | None = None) -> None:
    """Of training; validation follows."""
    x, optimizer = torch.randn(EXAMPLES, 8), torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.0)
    loss = model.train()(x).sum()
    if teacher is not None:
        with torch.no_grad():
            answer = teacher.eval()(x)
        loss = loss + answer.sum()
    loss.backward()
    optimizer.step()
    with torch.no_grad():
        model.eval()(x)


@pytest.mark.parametrize("steps", [1, 2])
def test_a_teacher_s_pass_costs_its_forward_and_validation_nothing(steps):
    with OperationCounter() as counter:
        for _ in range(steps):
            one_step(nn.Linear(8, 4), teacher=nn.Sequential(nn.Linear(8, 3), nn.Linear(3, 4)))
    assert counter.flops == steps * EXAMPLES * 2 * (2 * 32 + (24 + 12))


def test_layers_below_a_trained_head_cost_their_forward():
    model = nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 2))
    model[0].requires_grad_(False)
    with OperationCounter() as counter:
        one_step(model)
    assert counter.flops == EXAMPLES * 2 * (32 + 2 * 8)


@pytest.mark.parametrize("sharp", [True, False])
def test_a_choice_of_examples_costs_a_forward_pass_and_the_last_pass_is_theirs(sharp):
    """Five examples pass forward and back, five forward to be judged, two forward and back."""
    model = nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 2)).train()
    weights = {"0": model[0].weight, "1": model[1].weight}

    def losses(x, y):
        logits = model(x)
        return nn.functional.cross_entropy(logits, y, reduction="none"), logits

    candidates = PruningCandidates(weights, fraction=0.5, saliency=lambda name, *_: weights[name].detach().abs())
    with OperationCounter() as counter:
        x, y = torch.randn(EXAMPLES, 8), torch.arange(EXAMPLES) % 2
        sharpness_gradients(x, y, losses=losses, candidates=candidates, rho=0.1, examples=0.4, sharp=sharp)
    assert counter.flops == 2 * (5 * (2 * 32 + 3 * 8) + 5 * (32 + 8) + 2 * (2 * 32 + 3 * 8))
