"""The residual task as fixtures; makes the models of export tests importable."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "export"))
from residual_fixtures import ranges, reference, task  # noqa: E402, F401
