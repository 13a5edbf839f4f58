"""XNNPACK's fixed-point addition by hand."""

import sys
from pathlib import Path

import pytest
import torch

from tsn_toolkit.export.executorch_arithmetic import _Xnnpack
from tsn_toolkit.export.integer_interpreter import Codes, Sum
from tsn_toolkit.quantizers.activations import build_integer_model, calibrate_ranges

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "export"))
import export_models as models  # noqa: E402


@pytest.fixture(scope="module")
def interpreter():
    task = models.extracted_of(models.ResidualNet())
    ranges = calibrate_ranges(task.model, task.q, task.scale, [models.inputs(8)])
    return _Xnnpack(build_integer_model(task.model, task.q, task.scale, models.inputs(1), ranges=ranges))


def codes(values, scale):
    return Codes(torch.tensor(values, dtype=torch.float32), torch.tensor([scale]), signed=True)


def test_addition_rounds_halves_up(interpreter):
    """Ratios 1 and 1/2 are exact in fixed point; 1 + 1/2 becomes 2, -1 - 1/2 becomes -1, where rounding to even gives -2."""
    total = Sum(codes([1.0, -1.0, 3.0], 0.5), codes([1.0, -1.0, 2.0], 0.25))
    assert interpreter.rounded(total, torch.tensor(0.5), 0.0).tolist() == [2.0, -1.0, 4.0]


def test_multipliers_have_twenty_bits(interpreter):
    """S_a / S_out = 1/3 has the multiplier rint(2^22 / 3) = 1398101 of 2^22, which is below 1/3: 4194305.5 of 3 * 4194304 lie differently."""
    total = Sum(codes([3.0 * 2**21], 1.0), codes([0.0], 1.0))
    assert interpreter.rounded(total, torch.tensor(3.0), 0.0).item() == (3 * 2**21 * 1398101 + 2**21) // 2**22 == 2097151
