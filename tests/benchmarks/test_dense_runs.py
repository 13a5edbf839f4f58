"""Separate networks rounded after training: what is written is what was measured."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from harness.dense_runs import round_network_
from torch import nn

GRAPH = SimpleNamespace(layers=(SimpleNamespace(name="0"),), head="2")


@pytest.fixture
def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(7, 5, bias=False), nn.BatchNorm1d(5), nn.Linear(5, 3))


@pytest.mark.parametrize("bits", [4, 8])
def test_the_file_holds_the_rounded_weights(model, bits):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tensors = round_network_(model, GRAPH, bits)
    largest = 2 ** (bits - 1) - 1
    for name in ("0", "2"):
        old, new, scale = before[f"{name}.weight"], model.get_submodule(name).weight.detach(), tensors[f"{name}.weight.scale"]
        q = unpacked(tensors[f"{name}.weight"].numpy(), old.numel(), bits).reshape(old.shape)
        assert np.abs(q).max(axis=1).tolist() == [largest] * len(q), "each channel's largest weight has the largest code"
        assert np.array_equal(q * scale.numpy()[:, None], new.numpy())
        assert float((old - new).abs().max()) <= 0.502 * float(scale.max())
        assert len(tensors[f"{name}.weight"]) == -(-old.numel() * bits // 8)
    assert torch.equal(tensors["2.bias"], before["2.bias"])
    assert "1.num_batches_tracked" not in tensors


def unpacked(packed: np.ndarray, count: int, bits: int) -> np.ndarray:
    """Signed integers, worked one by one."""
    if bits == 8:
        return packed.view(np.int8)
    halves = [nibble for byte in packed.tolist() for nibble in (byte & 15, byte >> 4)][:count]
    return np.array([nibble - 16 if nibble > 7 else nibble for nibble in halves])
