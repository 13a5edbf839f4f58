"""WSN in float32: what trains, what a task's file holds, and what is read back from it."""

from types import SimpleNamespace

import pytest
import torch
from harness.wsn_fp32 import WinningWeight, read_task, write_task_
from harness.wsn_masks import BY_USE, RUN, decode_mask
from safetensors.torch import load_file
from torch import nn
from torch.nn.utils import parametrize


class Net(nn.Module):
    def __init__(self, wide: int = 6) -> None:
        super().__init__()
        self.body, self.norm, self.head = nn.Linear(8, wide, bias=False), nn.BatchNorm1d(wide), nn.Linear(wide, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.norm(self.body(x))))


SHOP = SimpleNamespace(factory=Net, graph=SimpleNamespace(head="head"))


@pytest.fixture
def model() -> Net:
    torch.manual_seed(0)
    net = Net()
    parametrize.register_parametrization(net.body, "weight", WinningWeight(net.body.weight, 0.25))
    return net


def train_(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    model.train()
    for _ in range(8):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(torch.randn(16, 8, generator=generator)), torch.randint(3, (16,), generator=generator)).backward()
        optimizer.step()
    model.eval()


def test_a_step_by_hand():
    weight = WinningWeight(torch.zeros(1, 4), 0.5)
    with torch.no_grad():
        weight.score.copy_(torch.tensor([[0.1, -0.4, 0.3, 0.2]]))
        weight.used.copy_(torch.tensor([[False, True, False, False]]))
    latent = torch.tensor([[1.0, 2.0, 3.0, 4.0]], requires_grad=True)
    made = weight(latent)
    assert made.tolist() == [[0.0, 2.0, 3.0, 0.0]], "the two largest |scores|"
    made.backward(torch.tensor([[10.0, 10.0, 10.0, 10.0]]))
    assert latent.grad.tolist() == [[0.0, 0.0, 10.0, 0.0]], "used slots and slots outside the mask stay"
    assert weight.score.grad.tolist() == [[10.0, -20.0, 30.0, 40.0]], "gradient * weight * sign(score), in every slot"


def test_tasks_are_read_back_from_their_files_and_stay(model, tmp_path):
    files, answers, x = [tmp_path / "0.safetensors", tmp_path / "1.safetensors"], [], torch.randn(5, 8)
    for seed, file in enumerate(files):
        train_(model, seed)
        with torch.no_grad():
            answers.append(model(x))
        write_task_(model, "head", file)
    with torch.no_grad():
        again = [read_task(SHOP, files[: i + 1], 3)(x) for i in range(2)]
    for answer, read in zip(answers, again, strict=True):
        assert torch.allclose(answer, read, atol=1e-5)
    none = torch.zeros(6, 8, dtype=torch.bool)
    first = decode_mask(load_file(files[0])["body.mask"], none, none)
    second = decode_mask(load_file(files[1])["body.mask"], first, first)
    assert int(first.sum()) == int(second.sum()) == 12
    assert bool((first & second).any()), "the second task reads some of the first one's weights"
    assert len(load_file(files[0])["body.values"]) == 12
    assert len(load_file(files[1])["body.values"]) == int((second & ~first).sum())


def test_used_weights_do_not_move(model, tmp_path):
    train_(model, 0)
    write_task_(model, "head", tmp_path / "0.safetensors")
    winning, before = model.body.parametrizations["weight"][0], model.body.parametrizations["weight"].original.detach().clone()
    train_(model, 1)
    after = model.body.parametrizations["weight"].original.detach()
    assert torch.equal(before[winning.used], after[winning.used])
    assert not torch.equal(before, after)


def test_masks_that_lean_on_earlier_tasks_are_read_back(tmp_path):
    torch.manual_seed(0)
    net, files, answers, x = Net(wide=400), [tmp_path / f"{i}.safetensors" for i in range(3)], [], torch.randn(5, 8)
    parametrize.register_parametrization(net.body, "weight", WinningWeight(net.body.weight, 0.2))
    winning = net.eval().body.parametrizations["weight"][0]
    for file in files:
        with torch.no_grad():
            answers.append(net(x))
            write_task_(net, "head", file)
            winning.score.add_(0.01 * torch.randn_like(winning.score))
    assert [int(load_file(file)["body.mask"][0]) for file in files] == [RUN, BY_USE, BY_USE]
    with torch.no_grad():
        shop = SimpleNamespace(factory=lambda: Net(wide=400), graph=SHOP.graph)
        again = [read_task(shop, files[: i + 1], 3)(x) for i in range(3)]
    for answer, read in zip(answers, again, strict=True):
        assert torch.allclose(answer, read, atol=1e-5)
