"""XNNPACK's fixed-point addition by hand."""

import pytest
import torch

from tsn_toolkit.export.executorch_arithmetic import XnnpackArithmetic
from tsn_toolkit.export.integer_interpreter import Codes, Sum


@pytest.fixture(scope="module")
def interpreter(reference):
    return XnnpackArithmetic(reference)


def codes(values, scale):
    return Codes(torch.tensor(values, dtype=torch.float32), torch.tensor([scale]), signed=True)


def test_addition_rounds_halves_up(interpreter):
    """Ratios 1 and 1/2 are exact in fixed point; 1 + 1/2 becomes 2, -1 - 1/2 becomes -1, where rounding to even gives -2."""
    total = Sum(codes([1.0, -1.0, 3.0], 0.5), codes([1.0, -1.0, 2.0], 0.25))
    assert interpreter.rounded(total, torch.tensor(0.5), 0.0).tolist() == [2.0, -1.0, 4.0]


def test_the_larger_ratio_sets_the_shift(interpreter):
    """Ratio 512 gives a shift by 11 bits, so that ratio 0.0003 becomes 1 / 2048: 1,024 codes of it are rounded up to 1, where exact ones are 0.31."""
    total = Sum(codes([0.0], 512.0), codes([1024.0], 0.0003))
    assert interpreter.rounded(total, torch.tensor(1.0), 0.0).item() == 1.0
