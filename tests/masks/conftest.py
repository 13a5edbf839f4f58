"""Fixtures of the mask tests."""

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread():
    """Small tensors are fastest, and always alike, on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
