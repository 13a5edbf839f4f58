"""A module that no task can be learned with is refused as soon as it is made."""

from pathlib import Path

import pytest

from tsn_toolkit.errors import ModelError
from tsn_toolkit.workshop import make_workshop

MODELS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, answer=lambda logits: logits):
        super().__init__()
        self.hidden = nn.Linear(4, 6)
        self.head = nn.Linear(6, 3)
        self.answer = answer

    def forward(self, x):
        return self.answer(self.head(torch.relu(self.hidden(x))))

def plain(): return Net()
def double(): return Net().double()
def half(): return Net().half()
def pair(): return Net(lambda logits: (logits, logits))
def named(): return Net(lambda logits: {"logits": logits})
def image(): return Net(lambda logits: logits[:, :, None, None])
def number(): return Net(lambda logits: logits.sum(1))
def endless(): return Net(lambda logits: logits / 0)
def centred(): return Net(lambda logits: logits - logits.mean(0))
def random(): return Net(lambda logits: logits + torch.rand_like(logits))

def meta():
    with torch.device("meta"):
        return Net()

def lazy():
    net = Net()
    net.hidden = nn.LazyLinear(6)
    return net
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "models.py").write_text(MODELS, encoding="utf-8")
    return tmp_path / "models.py"


def test_a_network_that_answers_with_logits_is_taken(file: Path) -> None:
    assert make_workshop(f"{file}:plain", "auto", (4,), 0).graph.head == "head"


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("double", "parameter `hidden.weight` is torch.float64; a network is learned .* Return `model.float\\(\\)`"),
        ("half", "parameter `hidden.weight` is torch.float16"),
        ("meta", "parameter `hidden.weight` is on the meta device and has no values"),
        ("lazy", "parameter `hidden.weight` belongs to a lazy module and has no shape yet"),
        ("pair", "the model answers with a tuple; a task is trained on one tensor of logits"),
        ("named", "the model answers with a dict"),
        ("image", "the model answers 2 examples with shape \\(2, 4, 1, 1\\)"),
        ("number", "the model answers 2 examples with shape \\(2,\\)"),
        ("centred", "answers an example beside another otherwise than alone: in evaluation it looks at the batch"),
        ("random", "or draws random numbers"),
        ("endless", "the model answers inputs between 0 and 1 with numbers that are not finite"),
    ],
)
def test_what_cannot_be_learned_is_refused(file: Path, factory: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        make_workshop(f"{file}:{factory}", "auto", (4,), 0)
