"""4-bit linear layers in ONNX Runtime: the layout of the bytes, which layers take it, both gates, and what they catch."""

import dataclasses
import shutil
from pathlib import Path

import export_models as models
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tsn_toolkit.export import int4_onnx
from tsn_toolkit.export.manifest import add_measurements
from tsn_toolkit.export.onnxruntime_arithmetic import rounded_by_blocks
from tsn_toolkit.export.package import write_package
from tsn_toolkit.quantizers.activations import build_integer_model, calibrate_ranges
from tsn_toolkit.target import OperationSupport, load_target
from tsn_toolkit.verify.gates import run_gates
from tsn_toolkit.verify.integer_share import integer_share
from tsn_toolkit.verify.package_check import verify_package

SHIPPED = load_target("cpu_onnxruntime_int4")


def target_from(least_weights: int):
    """The shipped target with another bound, so that small layers qualify."""
    linear = OperationSupport(weight_bits=4, activation_bits=8, granularity="per_channel", least_weights=least_weights)
    return SHIPPED.model_copy(update={"operations": {**SHIPPED.operations, "linear": linear}})


class Mlp(nn.Module):
    """192 - 64 - 64 - 5, the second layer without a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(192, 64), nn.Linear(64, 64, bias=False), nn.Linear(64, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.relu(self.second(torch.relu(self.first(x.flatten(1))))))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(package, artefact, task, target); the first two layers are large enough."""
    pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
    task = models.with_smaller_codes(models.extracted_of(Mlp()), 7)
    ranges = calibrate_ranges(task.model, task.q, task.scale, [models.inputs(64)])
    target, kept = target_from(4096), {}

    def keep(draft, artefact):
        kept["artefact"] = artefact
        return {}

    folder = tmp_path_factory.mktemp("packages") / "task"
    write_package(task, ranges, target, folder, example_input=models.inputs(1), measure=keep)
    return folder, kept["artefact"], task, target


@given(rows=st.integers(1, 5), blocks=st.integers(1, 3), seed=st.integers(0, 99))
def test_packing_is_undone(rows, blocks, seed):
    codes = np.random.default_rng(seed).integers(-8, 8, (rows, 32 * blocks)).astype(np.int8)
    content = int4_onnx.packed(codes, 32)
    assert content.shape == (rows, blocks, 16) and content.dtype == np.uint8
    assert np.array_equal(int4_onnx.unpacked(content), codes)


def test_bytes_by_hand():
    codes = np.full((1, 32), -8, np.int8)
    codes[0, :4] = (1, -7, 7, 0)
    assert int4_onnx.packed(codes, 32)[0, 0, :3].tolist() == [0x19, 0x8F, 0x00]


def test_package_passes_both_gates(made):
    package, artefact, task, target = made
    assert artefact.reference.blocks == {"first": 64, "second": 64}
    x = models.inputs(200, seed=7)
    parity = run_gates(package, task, artefact.reference, target, x, task.model(x).argmax(1))
    assert parity.passed and parity.output_steps <= 1
    assert verify_package(package).passed and "0.000 output steps" in models.readme_output(package)
    assert artefact.bytes_by_part["weights"] == 192 * 64 // 2 + 64 * 64 // 2 + 64 * 5


def test_reference_without_the_blocks_is_another_arithmetic(made):
    """So the rounding of each block's inputs is what the kernel does, and not a looser version of the int8 one."""
    package, artefact, task, target = made
    x = models.inputs(200, seed=7)
    blocks, artefact.reference.blocks = artefact.reference.blocks, {}
    try:
        other = run_gates(package, task, artefact.reference, target, x).output_steps
    finally:
        artefact.reference.blocks = blocks
    assert other >= 1 > run_gates(package, task, artefact.reference, target, x).output_steps


def test_profile_counts_the_kernel_as_integer(made):
    share = integer_share(made[0])
    assert share.share == 1.0 and share.operations["MatMulNBits"] == 2 and share.macs == 192 * 64 + 64 * 64 + 64 * 5


def test_flipped_bit_of_a_code_fails_gate_a(made, tmp_path):
    import onnx

    package, artefact, task, target = made
    copy = Path(shutil.copytree(package, tmp_path / "copy"))
    model = onnx.load(copy / "model.onnx")
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == "second.weight")
    raw = bytearray(tensor.raw_data)
    raw[40] ^= 0x80
    tensor.raw_data = bytes(raw)
    (copy / "model.onnx").write_bytes(model.SerializeToString())
    add_measurements(copy, {})
    parity = run_gates(copy, task, artefact.reference, target, models.inputs(16, seed=7))
    assert "weights of layer `second`, channels [1], are not the store's integers" in parity.failures[0]


def test_layers_that_stay_in_eight_bits(made):
    _, artefact, task, _ = made
    assert int4_onnx.int4_layers(task, artefact.reference, SHIPPED) == {}  # smaller than what was measured to be faster
    assert int4_onnx.int4_layers(task, artefact.reference, load_target("cpu_onnxruntime")) == {}
    wide = models.extracted_of(Mlp())
    reference = build_integer_model(wide.model, wide.q, wide.scale, models.inputs(8))
    assert int4_onnx.int4_layers(wide, reference, target_from(0)) == {}  # codes up to 127
    odd = dataclasses.replace(task, q={"first": task.q["first"][:, :190]})
    assert int4_onnx.int4_layers(odd, artefact.reference, target_from(0)) == {}  # no block length divides 190


def test_rounding_by_hand():
    """Largest magnitude 254 codes: steps of 2 codes, halves to even; a block of zeros stays zero."""
    from tsn_toolkit.export.integer_interpreter import Codes

    codes = Codes(torch.tensor([[254.0, 3.0, 5.0, 8.0, 0.0, 0.0, 0.0, 0.0]]), torch.tensor([0.5]), signed=False)
    assert rounded_by_blocks(codes, 4).value.tolist() == [[254.0, 4.0, 4.0, 8.0, 0.0, 0.0, 0.0, 0.0]]
