"""int8 linear layers by torchao: the store's integers in the file, the same answers as the float model, and what stays float."""

import importlib.util

import export_models as models
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import tsn_toolkit.export.torch_cuda as exporter
from tsn_toolkit.errors import ExportError, TargetError
from tsn_toolkit.export import torch as program
from tsn_toolkit.export.child import infer
from tsn_toolkit.export.manifest import read_manifest
from tsn_toolkit.export.package import write_package
from tsn_toolkit.export.torchao_int8 import with_int8_linear
from tsn_toolkit.target import load_target
from tsn_toolkit.verify.gates import run_gates

TARGET = load_target("gpu_torch_int8")
installed = pytest.mark.skipif(importlib.util.find_spec("torchao") is None, reason="torchao is not installed")
with_cuda = pytest.mark.skipif(bool(exporter.cannot_run()), reason=exporter.cannot_run())
LINEAR = "linear.parametrizations.weight.original0"


@pytest.fixture(scope="module")
def int8_reference(task):
    return with_int8_linear(program.from_integers(task), task)[0]


@pytest.fixture(scope="module")
def package(task, tmp_path_factory):
    pytest.importorskip("torchao", reason="torchao is not installed")
    folder = tmp_path_factory.mktemp("packages") / "task"
    write_package(task, {}, TARGET, folder, example_input=models.inputs(1))
    return folder


def test_file_holds_the_integers_of_the_store(package, task):
    for found in (torch.export.load(package / "model.pt2").state_dict, load_file(package / "weights.safetensors")):
        assert found[LINEAR].dtype == torch.int8 and np.array_equal(found[LINEAR].numpy(), task.q["linear"])
        assert found["conv1.weight"].dtype == torch.float32
    notes = read_manifest(package)["notes"]
    assert notes[0].startswith("1 linear layer(s) hold the store's int8") and notes[1] == "Float32, scale * q: conv1, conv2."


def test_program_answers_like_the_float_model_with_torch_alone(package, task):
    x = models.inputs(20, seed=7)
    got = infer(package / "model.pt2", x.numpy(), runtime="torch", options={})
    wanted = task.model(x).detach().numpy()
    assert np.abs(got - wanted).max() < 1e-5 * np.abs(wanted).max()


def test_gates_say_what_was_not_run_and_catch_a_changed_code(package, task, int8_reference):
    x = models.inputs(16, seed=7)
    parity = run_gates(package, task, int8_reference, TARGET, x)
    assert parity.failures == () and parity.top1_agreement == 1.0
    weights = package / "weights.safetensors"
    tensors, content = load_file(weights), weights.read_bytes()
    tensors[LINEAR][1, 2] ^= -128
    save_file(tensors, weights)
    try:
        assert f"tensor `{LINEAR}` is not the store's" in run_gates(package, task, int8_reference, TARGET, x).failures[0]
    finally:
        weights.write_bytes(content)


@with_cuda
def test_program_passes_both_gates_on_the_gpu(package, task, int8_reference):
    assert run_gates(package, task, int8_reference, TARGET, models.inputs(48, seed=7)).passed


@installed
def test_models_without_linear_layers_are_refused(tmp_path):
    task = models.extracted_of(nn.Sequential(nn.Conv2d(3, 4, 3)))
    with pytest.raises(ExportError, match="has no linear layer, the only one that target `gpu_torch_int8` keeps in int8"):
        write_package(task, {}, TARGET, tmp_path / "p", example_input=models.inputs(1))


def test_missing_torchao_names_its_install_line(task, tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "torchao" else find(name, *rest))
    with pytest.raises(TargetError, match="needs torchao, which is not installed. Install it: pip install torch"):
        write_package(task, {}, TARGET, tmp_path / "p", example_input=models.inputs(1))
