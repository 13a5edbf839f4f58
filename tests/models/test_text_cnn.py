"""The sentence classifier."""

import pytest
import torch
import torch.nn.functional as F

from tsn_toolkit.errors import ModelError
from tsn_toolkit.models.text_cnn import text_cnn


def test_the_first_layer_is_a_lookup():
    """A one-hot sentence picks columns of the weight, like an embedding; where the sentence has ended, the vector is 0."""
    torch.manual_seed(0)
    model = text_cnn(vocabulary=7, length=5, dimensions=4)
    words = torch.tensor([3, 0, 6])
    x = torch.zeros(1, 7, 5)
    x[0, words, torch.arange(3)] = 1
    found = model.embedding(x)[0]
    looked_up = F.embedding(words, model.embedding.weight[:, :, 0].T)
    assert torch.equal(found[:, :3].T, looked_up) and not found[:, 3:].any()


def test_it_is_the_described_arithmetic():
    torch.manual_seed(0)
    model = text_cnn(vocabulary=7, length=6, dimensions=4, filters=3, kernels=(1, 5), classes=2).eval()
    x = torch.randn(2, 7, 6)
    words = torch.einsum("dv,nvl->ndl", model.embedding.weight[:, :, 0], x)
    best = []
    for branch in model.branches:
        kernel = branch[0].kernel_size[0]
        windows = F.pad(words, (kernel // 2, kernel // 2)).unfold(2, kernel, 1)  # (n, dimensions, length, kernel)
        sums = torch.einsum("fdk,ndlk->nfl", branch[0].weight, windows) / (1 + 1e-5) ** 0.5
        best.append(sums.clamp(min=0).amax(dim=2))
    torch.testing.assert_close(model(x), torch.cat(best, 1) @ model.head.weight.T + model.head.bias, rtol=1e-4, atol=1e-6)


def test_weights_at_the_defaults():
    assert [p.numel() for p in text_cnn().parameters() if p.dim() > 1] == [16_384, 1024, 3072, 5120, 576]


@pytest.mark.parametrize(
    ("settings", "message"), [({"vocabulary": 0}, "vocabulary=0"), ({"kernels": (3, 2)}, r"got \[3, 2\]"), ({"kernels": ()}, r"got \[\]")]
)
def test_wrong_settings(settings, message):
    with pytest.raises(ModelError, match=message):
        text_cnn(**settings)
