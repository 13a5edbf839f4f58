"""Fixtures of the tests of the trainer; makes the learning samples importable."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

import learning_samples as samples

from tsn_toolkit.store.store import Store
from tsn_toolkit.trainer.context import starting_model
from tsn_toolkit.trainer.select_layers import select_layers


@pytest.fixture(autouse=True)
def one_thread():
    """Small models run fastest, and always alike, on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def context(tmp_path):
    """The first task of a fresh store."""
    store = Store.create(tmp_path / "store", trunk=samples.trunk("seed"), graph=samples.graph(), recipe={})
    return samples.make_context(store, samples.make_data())


@pytest.fixture
def model(context):
    """Where that task learns, every layer wrapped."""
    return select_layers(starting_model(context), context, bit_width=8).model
