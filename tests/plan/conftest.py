"""Fixtures of the plan tests."""

import pytest
import torch
from torch.nn import functional

from tsn_toolkit.graph import trace
from tsn_toolkit.models.small_cnn import small_cnn


@pytest.fixture(autouse=True)
def one_thread():
    """Small models run fastest, and always alike, on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def subject():
    """A network trained for a moment on three blurred patterns: model, graph, held-out examples."""
    generator = torch.Generator().manual_seed(0)
    patterns = torch.randn(3, 1, 8, 8, generator=generator)
    y = torch.randint(0, 3, (320,), generator=generator)
    x = patterns[y] + 3.0 * torch.randn(320, 1, 8, 8, generator=generator)
    torch.manual_seed(0)
    model = small_cnn(width=8, classes=3)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(40):
        optimizer.zero_grad()
        functional.cross_entropy(model(x[:192]), y[:192]).backward()
        optimizer.step()
    model.eval()
    return model, trace(model, x[:1]), (x[192:], y[192:])
