"""An owner's numbers into a module, and norms as two vectors there and back."""

import numpy as np
import pytest
import torch
from torch import nn

from tsn_toolkit.contracts import HeadState, NormState
from tsn_toolkit.errors import ModelError
from tsn_toolkit.filling import fill_, read_norm, write_norm_, write_weight_
from tsn_toolkit.parts.trunk import TrunkWeights

SIZE = 6


def randomised(norm, seed=0):
    """The norm with random vectors and statistics; gains of affine norms have both signs, and one is 0."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in (*norm.named_parameters(), *norm.named_buffers()):
            if name == "running_var":
                tensor.copy_(0.2 + torch.rand(tensor.shape, generator=generator))
            elif tensor.is_floating_point():
                tensor.copy_(torch.randn(tensor.shape, generator=generator))
        if norm.weight is not None:
            norm.weight[2] = 0
    return norm.eval()


def inputs(kind, seed=1):
    shape = {"bn1d": (7, SIZE), "bn3d": (4, SIZE, 2, 3, 2), "ln": (7, 5, SIZE)}.get(kind, (4, SIZE, 3, 3))
    return 2 * torch.randn(shape, generator=torch.Generator().manual_seed(seed)) + 1


NORMS = {
    "bn1d": lambda: nn.BatchNorm1d(SIZE),
    "bn2d": lambda: nn.BatchNorm2d(SIZE, eps=1e-3),
    "bn3d": lambda: nn.BatchNorm3d(SIZE),
    "plain_bn": lambda: nn.BatchNorm2d(SIZE, affine=False),
    "ln": lambda: nn.LayerNorm(SIZE),
    "ln_without_bias": lambda: nn.LayerNorm(3, bias=False),
    "gn": lambda: nn.GroupNorm(3, SIZE),
}


@pytest.mark.parametrize("kind", NORMS)
def test_a_norm_read_and_written_into_a_fresh_one_is_the_same_function(kind):
    norm, other = randomised(NORMS[kind]()), NORMS[kind]().eval()
    state = read_norm(norm, "n")
    write_norm_(other, state, "n")
    x = inputs(kind)
    with torch.no_grad():
        torch.testing.assert_close(other(x), norm(x), rtol=1e-5, atol=1e-5)
    again = read_norm(other, "n")
    np.testing.assert_allclose(again.gain, state.gain, rtol=1e-6)
    np.testing.assert_allclose(again.shift, state.shift, rtol=1e-6, atol=1e-7)
    assert state.gain.dtype == state.shift.dtype == np.float32


@pytest.mark.parametrize("kind", ["bn2d", "plain_bn"])
def test_a_batch_norm_s_two_vectors_are_the_function_by_themselves(kind):
    norm, x = randomised(NORMS[kind]()), inputs(kind)
    state = read_norm(norm, "n")
    gain, shift = (torch.from_numpy(vector).view(1, -1, 1, 1) for vector in (state.gain, state.shift))
    with torch.no_grad():
        torch.testing.assert_close(gain * x + shift, norm(x), rtol=1e-5, atol=1e-5)


def test_a_batch_norm_by_hand():
    norm = nn.BatchNorm1d(2, eps=0.0).eval()
    norm.running_mean.copy_(torch.tensor([3.0, -1.0]))
    norm.running_var.copy_(torch.tensor([4.0, 0.25]))
    norm.weight.data.copy_(torch.tensor([6.0, -1.0]))
    norm.bias.data.copy_(torch.tensor([1.0, 0.5]))
    state = read_norm(norm, "n")
    assert state.gain.tolist() == [3.0, -2.0] and state.shift.tolist() == [-8.0, -1.5]


@pytest.mark.parametrize("kind", ["bn2d", "plain_bn", "gn"])
def test_a_dead_unit_answers_zero(kind):
    norm = NORMS[kind]().eval()
    gain, shift = np.full(SIZE, 0.5, np.float32), np.full(SIZE, 0.25, np.float32)
    gain[1] = shift[1] = 0
    write_norm_(norm, NormState(gain, shift), "n")
    x = inputs(kind)
    x[:, 1] = 0  # the weights of a dead unit are 0, so this is what its norm gets
    with torch.no_grad():
        y = norm(x)
    if kind == "gn":
        assert not y[:, 1].any()
    else:
        assert not y[:, 1].any() and torch.allclose(y[:, 0], 0.5 * x[:, 0] + 0.25, atol=1e-5)


def test_a_norm_without_vectors_of_its_own_cannot_hold_a_negative_gain():
    state = NormState(np.array([1.0, -0.5], np.float32), np.zeros(2, np.float32))
    with pytest.raises(ModelError, match=r"norm `layer1\.bn` has no affine parameters and cannot hold a negative gain"):
        write_norm_(nn.BatchNorm1d(2, affine=False), state, "layer1.bn")


def test_a_norm_that_needs_its_neighbours_is_refused_by_name():
    with pytest.raises(ModelError, match=r"norm `layer1\.bn` keeps no running statistics.*track_running_stats=True"):
        read_norm(nn.BatchNorm2d(2, track_running_stats=False), "layer1.bn")


@pytest.mark.parametrize(("module", "shape"), [(nn.Conv2d(2, 3, 3), (3, 2, 3, 3)), (nn.Conv1d(2, 3, 2), (3, 2, 2)), (nn.Linear(4, 3), (3, 4))])
def test_a_weight_is_its_channel_s_scale_times_q(module, shape):
    q = np.random.default_rng(0).integers(-127, 128, shape).astype(np.int8)
    scale = np.array([0.5, 0.1, 3e-5], np.float32)
    write_weight_(module, q, scale)
    for channel in range(3):
        np.testing.assert_array_equal(module.weight[channel].detach().numpy(), q[channel].astype(np.float32) * scale[channel])


@pytest.mark.parametrize("head_bias", [True, False])
def test_fill_puts_every_number_at_its_place(head_bias):
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3, bias=head_bias)).eval()
    head = HeadState(np.arange(-12, 12).reshape(3, 8).astype(np.int8), np.array([0.1, 0.2, 0.3], np.float32), np.array([1, 2, 3], np.float32))
    weights = TrunkWeights(
        q={"0": np.array([[[[10]]], [[[-20]]]], np.int8)},
        scale={"0": np.array([0.5, 0.25], np.float32)},
        norms={"1": NormState(np.array([2.0, -1.0], np.float32), np.array([0.5, 0.0], np.float32))},
        biases={"0": np.array([1.0, -1.0], np.float32)},
        head=head,
    )
    fill_(model, weights, "3")
    x = torch.randn(5, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    features = np.concatenate([2 * (5 * x.numpy() + 1) + 0.5, 5 * x.numpy() + 1], axis=1).reshape(5, 8)
    expected = features @ (head.codes * head.scale[:, None]).T + (head.bias if head_bias else 0)
    with torch.no_grad():
        np.testing.assert_allclose(model(x).numpy(), expected, rtol=1e-4, atol=1e-4)
