"""Whose logits are whose in the three settings, and which compete."""

import pytest
import torch

from tsn_toolkit.errors import RecipeError
from tsn_toolkit.parts.head_rows import HeadRows


def two_tasks(setting, second=(7, 4)):
    return HeadRows().with_task("a", (4, 7), setting).with_task("b", second, setting)


def test_a_known_task_has_logits_of_its_own():
    head = two_tasks("task-incremental")
    assert head.classes == (4, 7, 7, 4) and head.rows == {"a": (0, 1), "b": (2, 3)} and head.task_known
    assert head.labels("b", torch.tensor([1, 0])).tolist() == [3, 2]
    visible = head.visible(torch.arange(8.0).view(2, 4), torch.tensor([1, 2]))
    assert visible.tolist() == [[0, 1, -torch.inf, -torch.inf], [-torch.inf, -torch.inf, 6, 7]]


def test_domains_share_their_logits_and_all_compete():
    head = two_tasks("domain-incremental")
    assert head.classes == (4, 7) and head.rows == {"a": (0, 1), "b": (1, 0)} and not head.task_known
    logits = torch.randn(3, 2)
    assert head.visible(logits, torch.tensor([0, 1, 1])) is logits and head.competing(torch.tensor([0])).all()


def test_classes_have_one_logit_each_and_all_compete():
    head = two_tasks("class-incremental", second=(9, 4, 2))
    assert head.classes == (4, 7, 9, 2) and head.rows == {"a": (0, 1), "b": (2, 0, 3)}
    assert head.labels("b", torch.tensor([0, 1, 2])).tolist() == [2, 0, 3]


def test_other_classes_are_no_other_domain():
    with pytest.raises(RecipeError, match=r"task `b` has \[4, 5\], the tasks before it have \[4, 7\]"):
        two_tasks("domain-incremental", second=(5, 4))
