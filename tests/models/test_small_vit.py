"""The small vision transformer."""

import math

import pytest
import torch
import torch.nn.functional as F

from tsn_toolkit.errors import ModelError
from tsn_toolkit.models.small_vit import sine_positions, small_vit


def attended(module, x):
    """Attention, head by head, with nothing but matrix products."""
    size, mixed = module.head_dim, []
    for head in range(module.heads):
        rows = slice(head * size, (head + 1) * size)
        query, key, value = (x @ layer.weight[rows].T + layer.bias[rows] for layer in (module.query, module.key, module.value))
        mixed.append(torch.softmax(query @ key.transpose(1, 2) / math.sqrt(size), dim=-1) @ value)
    return module.project(torch.cat(mixed, dim=-1))


def test_it_is_the_described_arithmetic():
    torch.manual_seed(0)
    model = small_vit(width=8, depth=2, heads=2, classes=3).eval()
    x = torch.randn(2, 3, 32, 32)
    pixels = x.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 1, 4, 5).reshape(2, 64, 48)  # patches row by row
    tokens = pixels @ model.patches.weight.reshape(8, 48).T + model.patches.bias + sine_positions(64, 8)
    for block in model.blocks:
        tokens = tokens + attended(block.attention, F.layer_norm(tokens, (8,)))
        tokens = tokens + block.output(block.hidden(F.layer_norm(tokens, (8,))).clamp(min=0))
    expected = model.head(F.layer_norm(tokens, (8,)).mean(dim=1))
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-5)


def test_positions_by_hand():
    found = sine_positions(5, 4)
    assert found[0].tolist() == [0, 1, 0, 1]
    assert found[3].tolist() == pytest.approx([math.sin(3), math.cos(3), math.sin(0.03), math.cos(0.03)])


def test_positions_are_no_state():
    """A store keeps no buffers but those of norms, so a checkpoint must hold none."""
    assert "positions" not in small_vit().state_dict()


def test_weights_at_the_defaults():
    assert sum(p.numel() for p in small_vit().parameters() if p.dim() > 1) == 48 * 64 + 3 * (4 * 64 * 64 + 2 * 64 * 128) + 640


@pytest.mark.parametrize(("settings", "message"), [({"depth": 0}, "depth=0"), ({"width": 10, "heads": 4}, "got 10 and 4")])
def test_wrong_settings(settings, message):
    with pytest.raises(ModelError, match=message):
        small_vit(**settings)
