"""Activations that are no clip: their tables against formulas written here, every way to call them, and where nothing else gives a step."""

import math
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tsn_toolkit.errors import ExportError
from tsn_toolkit.export.c.lookup import LOOKED_UP, function_of, lookup, own_grid
from tsn_toolkit.export.c.lowering import lower
from tsn_toolkit.export.c.operations import IntegerProgram, Lookup, Tensor
from tsn_toolkit.export.c.program import generate
from tsn_toolkit.export.c.reference import quantize_input, run_reference, stored_bytes

sys.path.insert(0, str(Path(__file__).resolve().parent))
from c_models import ActivationNet, answers, build, extracted_of, integer_model, lowered, main_of, random_bytes  # noqa: E402


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def softplus(x: float) -> float:
    return max(x, 0) + math.log1p(math.exp(-abs(x)))


FORMULAS = {
    nn.Sigmoid: sigmoid,
    nn.Hardsigmoid: lambda x: min(max(x + 3, 0), 6) / 6,
    nn.SiLU: lambda x: x * sigmoid(x),
    nn.Hardswish: lambda x: x * min(max(x + 3, 0), 6) / 6,
    nn.Tanh: math.tanh,
    nn.GELU: lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2,
    nn.ELU: lambda x: x if x > 0 else math.expm1(x),
    nn.LeakyReLU: lambda x: x if x > 0 else 0.01 * x,
    nn.Mish: lambda x: x * math.tanh(softplus(x)),
    nn.Softplus: lambda x: x if x > 20 else softplus(x),
    nn.LogSigmoid: lambda x: -softplus(-x),
}


@pytest.mark.parametrize("kind", LOOKED_UP, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("signed", [True, False])
def test_every_entry_is_the_nearest_code(kind, signed):
    source, target = Tensor("x", (3,), 0.07, signed), Tensor("y", (3,), 0.013, True)
    table = lookup(source, target, function_of(kind()), where="act").table
    assert table.dtype == np.int8 and len(table) == 256
    for byte in range(-128, 128):
        real = FORMULAS[kind](0.07 * (byte + (0 if signed else 128))) / 0.013
        code = int(table[byte + 128])
        assert abs(code - min(max(real, -128), 127)) <= 0.5 + 1e-9, (byte, real)


def test_tables_of_unsigned_results_are_stored_with_the_offset():
    source, target = Tensor("x", (2,), 0.1, True), Tensor("y", (2,), 1 / 255, False)
    operation = lookup(source, target, function_of(nn.Sigmoid()), where="act")
    assert operation.table[[0, 128, 255]].tolist() == [-128, 0, 127], "0, 127.5 rounded upwards, 255"
    found = run_reference(IntegerProgram((operation,), source, target), np.array([[-128, 0], [127, 22]]))
    assert found.tolist() == [[0, 128], [255, math.floor(255 * sigmoid(2.2) + 0.5)]]
    assert stored_bytes(found, target).tolist() == [[-128, 0], [127, math.floor(255 * sigmoid(2.2) + 0.5) - 128]]


def test_ties_round_upwards():
    source, target = Tensor("x", (1,), 1.0, True), Tensor("y", (1,), 2.0, True)
    table = lookup(source, target, torch.clone, where="act").table
    assert table[128 + np.array([1, 3, -1, -3])].tolist() == [1, 2, 0, -1]


def test_a_grid_of_its_own_just_holds_all_results():
    source = Tensor("x", (1,), 0.05, True)
    assert own_grid(source, function_of(nn.Sigmoid()), where="act") == (pytest.approx(sigmoid(127 * 0.05) / 255), False)
    assert own_grid(source, function_of(nn.Tanh()), where="act") == (pytest.approx(math.tanh(128 * 0.05) / 127), True)
    assert own_grid(Tensor("x", (1,), 0.01, True), torch.zeros_like, where="act") == (1 / 255, False)


def test_a_result_that_is_not_finite_is_refused():
    with pytest.raises(ExportError, match=r"`act` is not finite for every value in \[-12\.8, 12\.7\]"):
        own_grid(Tensor("x", (1,), 0.1, True), torch.log, where="act")


class Called(nn.Module):
    """One activation called in some way between two convolutions."""

    def __init__(self, call) -> None:
        super().__init__()
        self.first, self.second, self.linear = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Linear(64, 3)
        self.call = call

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(self.second(self.call(self.first(x))).flatten(1))


X = torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(0))


def operations_of(network: nn.Module) -> tuple:
    return lower(integer_model(extracted_of(network), X), (3, 4, 4)).operations


@pytest.mark.parametrize(
    ("module", "others"),
    [
        (nn.Sigmoid(), [torch.sigmoid, F.sigmoid, lambda x: x.sigmoid(), nn.Sigmoid()]),
        (nn.Tanh(), [torch.tanh, F.tanh, lambda x: x.tanh()]),
        (nn.SiLU(), [F.silu, lambda x: F.silu(x, inplace=True), nn.SiLU(inplace=True)]),
        (nn.Hardswish(), [F.hardswish, nn.Hardswish(inplace=True)]),
        (nn.Hardsigmoid(), [F.hardsigmoid]),
        (nn.GELU("tanh"), [lambda x: F.gelu(x, approximate="tanh")]),
        (nn.ELU(0.5), [lambda x: F.elu(x, 0.5), lambda x: F.elu(x, alpha=0.5)]),
        (nn.LeakyReLU(0.2), [lambda x: F.leaky_relu(x, 0.2)]),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_every_way_to_call_an_activation_is_the_same_table(module, others):
    wanted = operations_of(Called(module))
    assert [type(item).__name__ for item in wanted] == ["Convolution", "Lookup", "Convolution", "Convolution"]
    for other in others:
        found = operations_of(Called(other))
        assert [type(item).__name__ for item in found] == [type(item).__name__ for item in wanted]
        assert np.array_equal(found[1].table, wanted[1].table) and found[1].target.step == wanted[1].target.step


class Pooled(nn.Module):
    """Tables whose results poolings and another table read, before any quantizer, and one that ends the network."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(8, 5)
        self.largest, self.mean = nn.MaxPool2d(4), nn.AdaptiveAvgPool2d(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.hardswish(self.conv(x))
        x = torch.cat([torch.tanh(self.largest(x)), self.mean(x)], 1)
        return torch.sigmoid(self.linear(x.flatten(1)))


@pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")
def test_results_without_a_quantizer_are_written_on_their_own_grid(tmp_path):
    extracted = extracted_of(Pooled())
    program = lower(integer_model(extracted, X), (3, 4, 4))
    tables = [item for item in program.operations if isinstance(item, Lookup)]
    assert len({item.target.buffer for item in program.operations}) == len(program.operations)
    assert not program.target.signed and isinstance(program.operations[-1], Lookup) and len(tables) >= 3
    with torch.no_grad():
        wanted = extracted.model(X).numpy()
    found = run_reference(program, quantize_input(program, X.numpy())) * program.target.step
    assert np.abs(found - wanted).max() < 0.02
    inputs = random_bytes(program, 32)
    expected = stored_bytes(run_reference(program, inputs.astype(np.int64) + program.source.offset), program.target)
    flags = ("-O1", "-g", "-fsanitize=undefined,address", "-fno-sanitize-recover=all")
    path = build(tmp_path, generate({"net": program}).files | {"main.c": main_of("net")}, flags=flags)
    assert np.array_equal(answers([str(path)], program, inputs)[0], expected) and len(np.unique(expected)) > 30


def test_a_table_takes_256_bytes_of_flash_and_equal_ones_are_there_once():
    program = lowered(ActivationNet)
    tables = [item for item in program.operations if isinstance(item, Lookup)]
    sizes = generate({"net": program, "same": program}).constant_bytes
    distinct = {item.table.tobytes() for item in tables}
    assert len(tables) == 4 and [size for name, size in sizes.items() if name.endswith("_table")] == [256] * len(distinct)
