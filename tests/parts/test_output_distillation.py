"""The soft cross entropy by hand, and the hook that goes when the context ends."""

import math

import pytest
import torch
from torch import nn

from tsn_toolkit.parts.output_distillation import OutputDistillation, soft_cross_entropy


def test_by_hand_in_groups():
    """T = 2: softmax of (0, 2 ln 3) / 2 is (1/4, 3/4); the student's (0, 0) gives log 1/2 everywhere."""
    teacher = torch.tensor([[0.0, 2 * math.log(3), 5.0, 5.0]])
    student = torch.tensor([[0.0, 0.0, 0.0, 4 * math.log(2), 99.0]])
    first = math.log(2)
    second = -(0.5 * math.log(1 / 5) + 0.5 * math.log(4 / 5))
    assert float(soft_cross_entropy(student, teacher, [(0, 1)], 2.0)) == pytest.approx(first)
    assert float(soft_cross_entropy(student, teacher, [(0, 1), (2, 3)], 2.0)) == pytest.approx(first + second)


def test_the_least_loss_is_where_the_student_answers_like_the_teacher():
    teacher = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    student = (teacher + 3.0).requires_grad_()  # softmax does not see a constant
    (gradient,) = torch.autograd.grad(soft_cross_entropy(student, teacher, [(0, 1, 2, 3)], 3.0), student)
    assert gradient.abs().max() < 1e-7


def test_it_reads_the_student_s_last_answer_and_leaves_no_hook():
    teacher, student, x = nn.Linear(3, 2), nn.Linear(3, 4), torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
    with OutputDistillation(teacher, student, [(0, 1)], temperature=2.0, weight=0.5) as distillation:
        answer = student(x)
        expected = 0.5 * soft_cross_entropy(answer, teacher(x), [(0, 1)], 2.0)
        assert float(distillation(x).detach()) == pytest.approx(float(expected.detach()))
    assert not student._forward_hooks and not teacher.training
