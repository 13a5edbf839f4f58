"""The diagonal Fisher information of a softmax regression against its formula, and the penalty by hand."""

import pytest
import torch
from torch import nn

from tsn_toolkit.parts.fisher_penalty import diagonal_fisher, drawn_labels, quadratic_penalty
from tsn_toolkit.parts.head_rows import HeadRows


def test_the_fisher_information_of_a_softmax_regression():
    """d log p(y | x) / d W[c] = (1[c = y] - p_c) x"""
    generator = torch.Generator().manual_seed(0)
    model = nn.Linear(3, 4)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(generator=generator)
    x, rows = torch.randn(20, 3, generator=generator), torch.randint(4, (20,), generator=generator)
    head = HeadRows().with_task("a", (0, 1, 2, 3), "task-incremental")
    found = diagonal_fisher(model, ["weight", "bias"], x, rows, head.visible)
    residual = nn.functional.one_hot(rows, 4) - model(x).softmax(1)
    expected = (residual[:, :, None] * x[:, None, :]).square().mean(0)
    torch.testing.assert_close(found["weight"], expected)
    torch.testing.assert_close(found["bias"], residual.square().mean(0))


def test_logits_that_do_not_compete_carry_no_information():
    model = nn.Linear(2, 4)
    head = HeadRows().with_task("a", (0, 1), "task-incremental").with_task("b", (2, 3), "task-incremental")
    fisher = diagonal_fisher(model, ["weight"], torch.ones(5, 2), torch.full((5,), 2), head.visible)["weight"]
    assert (fisher[:2] == 0).all() and (fisher[2:] > 0).all()


def test_the_penalty_by_hand():
    fisher = {"w": torch.tensor([1.0, 4.0]), "b": torch.tensor([2.0])}
    anchors = {"w": torch.tensor([0.0, 1.0]), "b": torch.tensor([1.0])}
    now = {"w": torch.tensor([3.0, 0.5]), "b": torch.tensor([2.0, 100.0]), "new": torch.tensor([7.0])}
    assert float(quadratic_penalty(now, anchors, fisher)) == pytest.approx(0.5 * (1 * 9 + 4 * 0.25 + 2 * 1))


def test_labels_are_drawn_from_the_prediction():
    logits = torch.tensor([[0.0, torch.log(torch.tensor(3.0)), -torch.inf]]).repeat(4000, 1)
    share = torch.bincount(drawn_labels(logits, torch.Generator().manual_seed(0)), minlength=3) / 4000
    torch.testing.assert_close(share, torch.tensor([0.25, 0.75, 0.0]), atol=0.03, rtol=0)
