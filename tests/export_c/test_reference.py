"""The numpy reference against fractions and loops written here."""

from fractions import Fraction
from math import floor

import numpy as np
import pytest

from tsn_toolkit.export.c.fixed_point import FixedPoint, fixed_point
from tsn_toolkit.export.c.operations import Add, Concat, Convolution, IntegerProgram, Pool, Rescale, Tensor, Window
from tsn_toolkit.export.c.reference import quantize_input, run_reference, stored_bytes

RNG = np.random.default_rng(3)


def rounded(value: Fraction, signed: bool) -> int:
    """Nearest integer, halves upwards, clipped."""
    low, high = (-128, 127) if signed else (0, 255)
    return min(max(floor(value + Fraction(1, 2)), low), high)


def factor(scale: FixedPoint, channel: int) -> Fraction:
    return Fraction(int(scale.multipliers[channel]), 2 ** int(scale.shifts[channel]))


def run_one(operation, codes):
    return run_reference(IntegerProgram((operation,), operation.sources[0], operation.target), codes)


def test_a_convolution_by_hand():
    source, target = Tensor("x", (1, 1, 3), 1.0, True), Tensor("y", (1, 1, 3), 1.0, True)
    weights, bias = np.array([[[[1, 2, -1]]]], np.int8), np.array([1], np.int32)
    operation = Convolution("conv", source, target, weights, bias, fixed_point([0.5], where="conv"), Window((1, 3), padding=(0, 1)), 1)
    # sums 2*10+-1*3 = 17, 10+6+7 = 23, 3-14 = -11; plus 1, halved: 9, 12, -5
    assert run_one(operation, np.array([[[[10, 3, -7]]]])).tolist() == [[[[9, 12, -5]]]]
    half = Convolution("conv", source, target, weights, bias + 1, fixed_point([0.5], where="conv"), Window((1, 3), padding=(0, 1)), 1)
    assert run_one(half, np.array([[[[10, 3, -7]]]])).tolist() == [[[[10, 13, -4]]]], "9.5, 12.5 and -4.5 round upwards"


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize(("groups", "dilation", "stride"), [(1, (1, 1), (1, 1)), (2, (2, 1), (1, 2)), (4, (1, 2), (2, 1))])
def test_a_convolution_against_loops(groups, dilation, stride, signed):
    window = Window((2, 3), stride=stride, padding=(1, 2), dilation=dilation)
    rows, columns = window.output(5, 6)
    source, target = Tensor("x", (4, 5, 6), 1.0, True), Tensor("y", (8, rows, columns), 1.0, signed)
    weights = RNG.integers(-127, 128, (8, 4 // groups, 2, 3)).astype(np.int8)
    bias = RNG.integers(-3000, 3000, 8).astype(np.int32)
    factors = fixed_point(RNG.uniform(-0.004, 0.004, 8), where="conv")
    x = RNG.integers(-128, 128, (2, 4, 5, 6))
    got = run_one(Convolution("conv", source, target, weights, bias, factors, window, groups), x)
    assert got.shape == (2, 8, rows, columns)
    for n, o, r, c in np.ndindex(got.shape):
        total = int(bias[o])
        for i, kr, kc in np.ndindex(weights.shape[1:]):
            row, column = r * stride[0] - 1 + kr * dilation[0], c * stride[1] - 2 + kc * dilation[1]
            if 0 <= row < 5 and 0 <= column < 6:
                total += int(x[n, o // (8 // groups) * (4 // groups) + i, row, column]) * int(weights[o, i, kr, kc])
        assert got[n, o, r, c] == rounded(total * factor(factors, o), signed)


def test_an_addition_rounds_once():
    first, second, target = Tensor("a", (64,), 0.3, True), Tensor("b", (64,), 0.7, True), Tensor("y", (64,), 0.5, False)
    factors = fixed_point([0.6, 1.4], where="add", common_shift=True)
    codes = RNG.integers(-128, 128, (1, 64))
    doubled = Rescale(first, second, fixed_point([1.0], where="copy"))
    program = IntegerProgram((doubled, Add(first, second, target, factors)), first, target)
    expected = [rounded(int(code) * (factor(factors, 0) + factor(factors, 1)), False) for code in codes[0]]
    assert run_reference(program, codes)[0].tolist() == expected


def test_pools_by_hand():
    source = Tensor("x", (1, 2, 2), 1.0, False)
    window = Window((2, 2), stride=(1, 1), padding=(1, 1))
    x = np.array([[[[8, 3], [0, 5]]]])
    largest = run_one(Pool("max", source, Tensor("y", (1, 3, 3), 1.0, False), window), x)
    assert largest.tolist() == [[[[8, 8, 3], [8, 8, 5], [0, 5, 5]]]]
    mean = run_one(Pool("average", source, Tensor("y", (1, 3, 3), 1.0, False), window, fixed_point([0.25], where="pool")), x)
    assert mean.tolist() == [[[[2, 3, 1], [2, 4, 2], [0, 1, 1]]]], "8/4, 11/4, 3/4; 8/4, 16/4, 8/4; 0, 5/4, 5/4"


def test_concat_keeps_the_order_and_input_codes_round_to_even():
    source, other = Tensor("x", (1, 1, 2), 0.5, True), Tensor("b", (1, 1, 2), 0.25, True)
    twice = Rescale(source, other, fixed_point([2.0], where="copy"))
    program = IntegerProgram((twice, Concat((source, other), Tensor("y", (2, 1, 2), 0.5, True))), source, Tensor("y", (2, 1, 2), 0.5, True))
    codes = quantize_input(program, np.array([[[[0.75, -100.0]]]], np.float32))
    assert codes.tolist() == [[[[2, -128]]]]
    assert run_reference(program, codes).tolist() == [[[[2, -128]], [[4, -128]]]]


def test_unsigned_codes_are_stored_with_an_offset():
    assert stored_bytes(np.array([0, 128, 255]), Tensor("x", (3,), 1.0, False)).tolist() == [-128, 0, 127]
    assert stored_bytes(np.array([-128, 127]), Tensor("x", (2,), 1.0, True)).tolist() == [-128, 127]
