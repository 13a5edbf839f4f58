"""`taylor` asks each example about a unit, wherever a network lays its examples: first, second, or in windows."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tsn_toolkit.errors import GraphError
from tsn_toolkit.graph import trace
from tsn_toolkit.importance import taylor

LENGTH = 6


class Sequences(nn.Module):
    """Tokens (n, length, 4), computed as (n, length, units), (length, n, units) or windows (n * 3, 2, units): always the same function."""

    def __init__(self, order):
        super().__init__()
        self.order = order
        self.up, self.mix, self.head = nn.Linear(4, 8), nn.Linear(8, 5), nn.Linear(5, 3)

    def forward(self, x):
        if self.order == "length first":
            x = x.transpose(0, 1)
        elif self.order == "windows":
            x = x.reshape(-1, 2, 4)
        x = torch.tanh(self.mix(torch.relu(self.up(x))))
        if self.order == "windows":
            x = x.reshape(-1, LENGTH, x.shape[-1])
        return self.head(x.mean(0 if self.order == "length first" else 1))


@pytest.mark.parametrize("examples", [1, 2, LENGTH, 7])
@pytest.mark.parametrize("order", ["length first", "windows"])
def test_scores_do_not_depend_on_the_order_of_dimensions(order, examples):
    torch.manual_seed(0)
    plain = Sequences("plain").eval()
    other = Sequences(order).eval()
    other.load_state_dict(plain.state_dict())
    batches = [(torch.randn(examples, LENGTH, 4), torch.randint(0, 3, (examples,))) for _ in range(2)]
    example = torch.zeros(2, LENGTH, 4)
    wanted = taylor.score(plain, trace(plain, example), batches, F.cross_entropy)
    found = taylor.score(other, trace(other, example), batches, F.cross_entropy)
    assert set(found) == set(wanted) == {"up", "mix"}
    for group, scores in wanted.items():
        np.testing.assert_allclose(found[group], scores, rtol=1e-4, atol=1e-12)
        assert (scores > 0).any()


class Table(nn.Module):
    """What a layer makes of fixed positions, which no example changes."""

    def __init__(self):
        super().__init__()
        self.register_buffer("positions", torch.randn(LENGTH, 4))
        self.place, self.up, self.head = nn.Linear(4, 8), nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.head((self.up(x) * torch.sigmoid(self.place(self.positions))).mean(1))


def test_what_is_the_same_for_all_examples_is_named():
    model = Table().eval()
    batches = [(torch.randn(4, LENGTH, 4), torch.randint(0, 3, (4,)))]
    with pytest.raises(GraphError, match="`place` gives the same for all. Use `fisher` or `magnitude`"):
        taylor.score(model, trace(model, torch.zeros(2, LENGTH, 4)), batches, F.cross_entropy)
