"""WSN in float32: what trains, what a task's file holds, and what is read back from it."""

from types import SimpleNamespace

import pytest
import torch
from harness.wsn_fp32 import WinningWeight, _packed_mask, _unpacked_mask, read_task, write_task_
from safetensors.torch import load_file
from torch import nn
from torch.nn.utils import parametrize


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.norm, self.head = nn.Linear(8, 6, bias=False), nn.BatchNorm1d(6), nn.Linear(6, 3)

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
    first, second = (_unpacked_mask(load_file(file)["body.mask"], torch.Size((6, 8))) for file in files)
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


@pytest.mark.parametrize("kept", [0, 1, 500, 1003])
def test_masks_come_back(kept):
    mask = torch.zeros(1003, dtype=torch.bool)
    mask[torch.randperm(1003, generator=torch.Generator().manual_seed(0))[:kept]] = True
    packed = _packed_mask(mask.view(17, 59))
    assert torch.equal(_unpacked_mask(packed, torch.Size((17, 59))), mask.view(17, 59))
    assert len(packed) <= 1 + 126, "never more than the bits themselves"
