"""Fixtures that several test folders share."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tsn_data() -> Path:
    """The folder with the unpacked datasets and checkpoints; skips where there is none."""
    value = os.environ.get("TSN_DATA", "")
    if not value:
        pytest.skip("TSN_DATA is not set: it names the folder with the datasets and checkpoints")
    folder = Path(value)
    if not folder.is_dir():
        pytest.skip(f"TSN_DATA names {value}, which is not a folder")
    return folder
