"""The losses on replayed examples against numbers worked out by hand."""

import math

import pytest
import torch

from tsn_toolkit.parts.head_rows import HeadRows
from tsn_toolkit.parts.replay_losses import label_loss, logit_loss

KNOWN = HeadRows().with_task("a", (0, 1), "task-incremental").with_task("b", (2, 3), "task-incremental")
UNKNOWN = HeadRows().with_task("a", (0, 1), "class-incremental").with_task("b", (2, 3), "class-incremental")
LOGITS = torch.tensor([[1.0, 2.0, 9.0, 9.0], [9.0, 9.0, 0.0, 3.0]])
ROWS = torch.tensor([0, 3])


def test_labels_compete_within_the_task_or_with_all():
    within = (math.log(math.e + math.e**2) - 1 + math.log(1 + math.e**3) - 3) / 2
    assert float(label_loss(LOGITS, ROWS, KNOWN)) == pytest.approx(within, rel=1e-6)
    everywhere = (math.log(math.e + math.e**2 + 2 * math.e**9) - 1 + math.log(2 * math.e**9 + 1 + math.e**3) - 3) / 2
    assert float(label_loss(LOGITS, ROWS, UNKNOWN)) == pytest.approx(everywhere, rel=1e-6)


def test_only_logits_that_were_there_and_compete_are_compared():
    stored, width = torch.tensor([[0.0, 0.0, 5.0, 5.0], [1.0, 1.0, 1.0, 1.0]]), torch.tensor([2, 4])
    assert float(logit_loss(LOGITS, stored, width, ROWS, KNOWN)) == pytest.approx((1 + 4 + 1 + 4) / 4)
    assert float(logit_loss(LOGITS, stored, width, ROWS, UNKNOWN)) == pytest.approx((1 + 4 + 64 + 64 + 1 + 4) / 6)
    narrow = stored[:, :2]
    assert float(logit_loss(LOGITS, narrow, torch.tensor([2, 2]), ROWS, UNKNOWN)) == pytest.approx((1 + 4 + 64 + 64) / 4)
