"""2:4 sparse linear layers: which are kept, what the file holds, what is refused, and torch's compressed tensors with stand-ins for GPU kernels.

The stand-ins: a compression by torch's own CUTLASS layout, which is plain tensor code, on the CPU; and a product that unpacks that layout again. All
between, torchao's `sparsify_`, the tensor's dispatch, its padding and transposition, is the code that runs on a GPU.
"""

import dataclasses
import importlib.util
import sys
from pathlib import Path

import export_models as models
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.torch import load_file, save_file
from torch import nn
from torch.sparse import SparseSemiStructuredTensorCUSPARSELT, SparseSemiStructuredTensorCUTLASS
from torch.sparse._semi_structured_conversions import sparse_semi_structured_from_dense_cutlass, sparse_semi_structured_to_dense_cutlass

import tsn_toolkit.export.torch_semi_structured as exporter
from tsn_toolkit.errors import ExportError, GateError, TargetError
from tsn_toolkit.export import torch as program
from tsn_toolkit.export.artefact import ExportRequest
from tsn_toolkit.export.child import infer
from tsn_toolkit.export.manifest import read_manifest
from tsn_toolkit.export.package import write_package
from tsn_toolkit.export.rehearsal import check_exportable
from tsn_toolkit.export.semi_structured import densest_group, half_weight, sparse_layers, with_half_linear
from tsn_toolkit.graph.trace import trace
from tsn_toolkit.masks.granularity import parse_granularity, structured_mask
from tsn_toolkit.target import load_target
from tsn_toolkit.verify.gates import run_gates
from tsn_toolkit.verify.package_check import verify_package

TARGET = load_target("gpu_torch_2_4")
with_cuda = pytest.mark.skipif(bool(exporter.cannot_run()), reason=exporter.cannot_run() or "runs")
without_cuda = pytest.mark.skipif(not exporter.cannot_run(), reason="a GPU with sparse tensor cores is here: packages are run")
installed = pytest.mark.skipif(importlib.util.find_spec("torchao") is None, reason="torchao is not installed")
RUNNER_FOLDER = str(Path(exporter.__file__).parent)


class Mlp(nn.Module):
    """A convolution, two linear layers with kernels, one of them without bias and one of them on (batch, tokens, features), and a head without."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 1)
        self.tokens = nn.Linear(64, 64)
        self.hidden = nn.Linear(16 * 64, 96, bias=False)
        self.head = nn.Linear(96, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.conv(x)).flatten(2)
        return self.head(F.relu(self.hidden(F.relu(self.tokens(x)).flatten(1))))


def patterned(extracted, *names):
    """The task with the largest two of every four inputs left in the named layers."""
    q = dict(extracted.q)
    for name in names:
        mask = structured_mask(torch.from_numpy(np.abs(q[name].astype(np.float32))), 0.5, parse_granularity("2:4"))
        q[name] = np.where(mask.numpy(), q[name], 0).astype(np.int8)
        with torch.no_grad():
            extracted.model.get_submodule(name).weight.copy_(torch.from_numpy(extracted.scale[name].reshape(-1, 1) * q[name].astype(np.float32)))
    return dataclasses.replace(extracted, q=q)


@pytest.fixture(scope="module")
def sparse_task():
    return patterned(models.extracted_of(Mlp()), "tokens", "hidden")


@pytest.fixture(scope="module")
def half_reference(sparse_task):
    return with_half_linear(program.from_integers(sparse_task), sparse_task, ("tokens", "hidden"))


@pytest.fixture(scope="module")
def package(sparse_task, tmp_path_factory):
    pytest.importorskip("torchao", reason="torchao is not installed")
    folder = tmp_path_factory.mktemp("packages") / "task"
    write_package(sparse_task, {}, TARGET, folder, example_input=models.inputs(1))
    return folder


def test_the_target_says_that_it_has_kernels_for_the_pattern():
    assert TARGET.sparsity_patterns == ("2:4",) and parse_granularity(TARGET.sparsity_patterns[0]).density == 0.5
    assert [source.source for source in TARGET.sources if source.figure == "gates.float_error"][0].endswith("not measured on a GPU")


def test_layers_are_sorted_by_pattern_and_kernel(sparse_task):
    layers = sparse_layers(sparse_task)
    assert layers.kept == ("tokens", "hidden")
    assert layers.dense == {
        "conv": "a Conv2d has no kernel",
        "head": "5 x 96 weights; the kernels take multiples of 32 outputs and 64 inputs",
    }


@pytest.mark.parametrize(("outputs", "inputs", "fits"), [(32, 64, True), (96, 192, True), (48, 64, False), (32, 96, False), (64, 32, False)])
def test_which_shapes_have_a_kernel(outputs, inputs, fits):
    """As torch's own two libraries state them; what is kept suits both."""
    layers = sparse_layers(patterned(models.extracted_of(nn.Sequential(nn.Linear(inputs, outputs))), "0"))
    assert (layers.kept == ("0",)) == fits and ("take multiples of 32 outputs and 64 inputs" in layers.dense.get("0", "")) != fits
    for library in (SparseSemiStructuredTensorCUTLASS, SparseSemiStructuredTensorCUSPARSELT):
        least = library._DTYPE_SHAPE_CONSTRAINTS[torch.float16]
        assert not fits or (outputs % least.sparse_min_rows == 0 and inputs % least.sparse_min_cols == 0)


def test_a_single_group_of_three_makes_a_layer_dense(sparse_task):
    q = dict(sparse_task.q)
    q["hidden"] = q["hidden"].copy()
    q["hidden"][7, 8:12] = [1, -1, 0, 1]
    layers = sparse_layers(dataclasses.replace(sparse_task, q=q))
    assert layers.kept == ("tokens",) and layers.dense["hidden"] == "1 of 24,576 groups of four inputs have more than two weights"


def test_a_weight_beyond_float16_makes_a_layer_dense(sparse_task):
    scale = {**sparse_task.scale, "hidden": sparse_task.scale["hidden"] * 1e8}
    layers = sparse_layers(dataclasses.replace(sparse_task, scale=scale))
    assert layers.kept == ("tokens",) and layers.dense["hidden"] == "a weight is beyond what float16 holds"


@given(hnp.arrays(np.int8, st.tuples(st.integers(1, 4), st.sampled_from([4, 8, 64])), elements=st.sampled_from([0, 0, 0, 3, -5])))
def test_the_densest_group_is_what_loops_find(codes):
    counts = [sum(int(code) != 0 for code in row[start : start + 4]) for row in codes for start in range(0, len(row), 4)]
    assert densest_group(codes) == max(counts)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_torchs_compression_keeps_every_weight_of_a_kept_layer_and_drops_others(seed):
    """Why layers that disobey must stay dense, and that each shape that is kept is one torch can compress."""
    random = np.random.default_rng(seed)
    rows, columns = 32 * int(random.integers(1, 4)), 64 * int(random.integers(1, 4))
    dense = torch.from_numpy(half_weight(random.integers(1, 128, (rows, columns)).astype(np.int8), np.full(rows, 0.01, np.float32)))
    kept = dense * structured_mask(torch.rand(rows, columns), 0.5, parse_granularity("2:4"))
    packed, meta = sparse_semi_structured_from_dense_cutlass(kept)
    assert torch.equal(sparse_semi_structured_to_dense_cutlass(packed, meta), kept) and packed.shape == (rows, columns // 2)
    assert packed.nbytes + meta.nbytes == kept.nbytes * 9 // 16
    assert (sparse_semi_structured_to_dense_cutlass(*sparse_semi_structured_from_dense_cutlass(dense)) == 0).sum() == dense.numel() // 2


def test_the_file_holds_half_weights_that_obey_the_pattern(package, sparse_task):
    for found in (torch.export.load(package / "model.pt2").state_dict, load_file(package / "weights.safetensors")):
        for name in ("tokens", "hidden"):
            weight = found[f"{name}.weight"]
            exact = sparse_task.scale[name].reshape(-1, 1).astype(np.float64) * sparse_task.q[name]
            assert weight.dtype == torch.float16 and densest_group(weight.numpy()) == 2
            assert (np.abs(weight.numpy() - exact) <= 2.0**-11 * np.abs(exact) + 2.0**-25).all()
        assert {found[name].dtype for name in ("conv.weight", "head.weight", "tokens.bias")} == {torch.float32}
    manifest = read_manifest(package)
    assert manifest["notes"][0].startswith("2:4 sparse, float16") and manifest["notes"][0].endswith(": tokens, hidden.")
    assert manifest["notes"][1].startswith("Dense, float32, scale * q: conv (a Conv2d has no kernel); head (5 x 96")
    assert set(manifest["versions"]) >= {"torch", "torchao"} and "numpy, torch >= 2.8 and torchao" in (package / "README.md").read_text()


def test_the_dense_program_answers_like_the_store_on_the_cpu(package, sparse_task):
    x = models.inputs(20, seed=7)
    got, wanted = infer(package / "model.pt2", x.numpy(), runtime="torch", options={}), sparse_task.model(x).detach().numpy()
    assert 0 < np.abs(got - wanted).max() < TARGET.gates.float_error * np.abs(wanted).max()


@without_cuda
def test_package_says_it_was_not_run(package, sparse_task, half_reference):
    manifest = read_manifest(package)
    assert manifest["not_run"].startswith("not run here: ") and "This package was not run here" in (package / "README.md").read_text()
    parity = run_gates(package, sparse_task, half_reference, TARGET, models.inputs(16, seed=7))
    assert parity.not_run and parity.failures == () and np.isnan(parity.output_steps) and parity.top1_agreement == 1.0 and parity.sqnr_db > 50
    assert verify_package(package).not_run == manifest["not_run"] and verify_package(package).passed is None


@without_cuda
def test_the_runner_starts_in_a_process_of_its_own_and_asks_for_the_gpu(package):
    with pytest.raises(GateError, match=r"does not run in torch_semi_structured \(exit code 1\): .*(CUDA|NVIDIA)"):
        infer(package / "model.pt2", models.inputs(2).numpy(), runtime="torch_semi_structured", options={})


@without_cuda
def test_a_changed_weight_is_found_without_a_run(package, sparse_task, half_reference):
    weights = package / "weights.safetensors"
    tensors, content = load_file(weights), weights.read_bytes()
    place = torch.nonzero(tensors["hidden.weight"][3])[0].item()
    tensors["hidden.weight"][3, place] *= -1
    save_file(tensors, weights)
    try:
        failures = run_gates(package, sparse_task, half_reference, TARGET, models.inputs(8, seed=7)).failures
        assert "tensor `hidden.weight` is not the store's" in failures[0]
    finally:
        weights.write_bytes(content)


def test_a_reference_of_other_integers_is_found(package, sparse_task, half_reference):
    q = {**sparse_task.q, "hidden": -sparse_task.q["hidden"]}
    with pytest.raises(ExportError, match="layer `hidden` does not hold the store's 2:4 weights in float16"):
        exporter.check_weights(package / "model.pt2", dataclasses.replace(sparse_task, q=q), half_reference)


@installed
def test_a_task_without_the_pattern_is_refused_with_the_reason_of_each_layer(tmp_path):
    task = models.extracted_of(Mlp())
    with pytest.raises(ExportError) as caught:
        write_package(task, {}, TARGET, tmp_path / "p", example_input=models.inputs(1))
    message = str(caught.value)
    assert "Task `task`, target `gpu_torch_2_4`: no layer can be kept 2:4 sparse. `conv`: a Conv2d has no kernel; `tokens`: " in message
    assert "`head`: 5 x 96 weights" in message and "Give linear layers `granularity: '2:4'`" in message
    assert "of 1,024 groups of four inputs have more than two weights" in message and not (tmp_path / "p").exists()


@installed
def test_the_network_is_judged_before_training_by_its_kernels_alone(task, tmp_path):
    """A rehearsal gives every linear layer the pattern: only shapes may refuse."""
    network = Mlp()
    graph = trace(network, models.inputs(1))
    check_exportable(network, graph, [TARGET])
    small = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Flatten(), nn.Linear(256, 10))
    with pytest.raises(ExportError, match=r"`gpu_torch_2_4` cannot take this network, so nothing is trained: .*`2`: 10 x 256 weights; the kernels"):
        check_exportable(small, trace(small, models.inputs(1)), [TARGET])
    before = {name: codes.copy() for name, codes in task.q.items()}
    with pytest.raises(ExportError, match="no layer can be kept 2:4 sparse"):
        exporter.rehearse(ExportRequest(task, {}, TARGET, models.inputs(1)))
    assert all(np.array_equal(codes, before[name]) for name, codes in task.q.items())


@installed
def test_a_network_that_is_one_linear_layer(tmp_path):
    task = patterned(models.extracted_of(nn.Linear(64, 32)), "")
    manifest = write_package(task, {}, TARGET, tmp_path / "p", example_input=torch.randn(1, 64, generator=torch.Generator().manual_seed(0)))
    found = torch.export.load(tmp_path / "p" / "model.pt2").state_dict
    assert found["weight"].dtype == torch.float16 and found["bias"].dtype == torch.float32 and "2:4 sparse" in manifest["notes"][0]


def test_missing_torchao_names_its_install_line(sparse_task, tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "torchao" else find(name, *rest))
    with pytest.raises(TargetError, match="needs torchao, which is not installed. Install it: pip install torch"):
        write_package(sparse_task, {}, TARGET, tmp_path / "p", example_input=models.inputs(1))


def test_which_machines_cannot_run_it(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert exporter.cannot_run() == "not run here: no CUDA device"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    assert exporter.cannot_run() == "not run here: the CUDA device has compute capability 7.5, and sparse tensor cores begin with 8.0"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 0))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert exporter.cannot_run() == "not run here: torchao is not installed"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert exporter.cannot_run() == ""


@pytest.fixture
def runner(monkeypatch):
    """`run_torch_semi_structured` on the CPU, with stand-ins for compression and product; `calls` counts products."""
    pytest.importorskip("torchao", reason="torchao is not installed")
    from torch.export import passes
    from torchao.sparsity import sparse_api

    calls = []

    def compress(weight):
        packed, meta = sparse_semi_structured_from_dense_cutlass(weight)
        return SparseSemiStructuredTensorCUTLASS(weight.shape, packed, meta, None, None, None)

    def product(packed, meta, dense):
        calls.append(tuple(dense.shape))
        weight = sparse_semi_structured_to_dense_cutlass(packed, meta)
        return (weight.double() @ dense.double()).to(weight.dtype)

    move = passes.move_to_device_pass
    monkeypatch.setattr(sparse_api, "to_sparse_semi_structured", compress)
    monkeypatch.setattr(torch, "_sparse_semi_structured_mm", product)
    monkeypatch.setattr(passes, "move_to_device_pass", lambda program, device: move(program, "cpu"))
    monkeypatch.setattr(torch.Tensor, "cuda", lambda self: self)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    for name in ("runner", "run_torch_cuda", "run_torch_semi_structured"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(RUNNER_FOLDER)
    # beside the exporters their names hide the libraries, which are imported by now
    import run_torch_semi_structured

    run_torch_semi_structured.calls = calls
    yield run_torch_semi_structured
    for name in ("runner", "run_torch_cuda", "run_torch_semi_structured"):
        sys.modules.pop(name, None)


@pytest.mark.filterwarnings("ignore:The PyTorch API of SparseSemiStructuredTensor:UserWarning")
@pytest.mark.parametrize("count", [1, 7, 20])
def test_the_runner_answers_with_compressed_weights_as_the_reference_does(package, half_reference, runner, count):
    x = models.inputs(count, seed=7)
    with torch.inference_mode():
        session = runner.Program({"model": str(package / "model.pt2")}, x.shape)
        got = session.get(session(session.put(x.numpy())))
    weights = {name: session.module.get_submodule(name).weight for name in ("tokens", "hidden")}
    assert all(isinstance(weight, SparseSemiStructuredTensorCUTLASS) for weight in weights.values())
    assert len(runner.calls) == 2 and all(shape[1] % 8 == 0 for shape in runner.calls), "the dense operand is padded to multiples of 8"
    [(wanted, kind)] = program.admissible_outputs(half_reference, x)
    assert kind == "float" and np.abs(got - wanted).max() < TARGET.gates.float_error * np.abs(wanted).max()


@pytest.mark.filterwarnings("ignore:The PyTorch API of SparseSemiStructuredTensor:UserWarning")
def test_the_readmes_code_compresses_and_gives_the_recorded_outputs(package, runner, monkeypatch, capsys):
    monkeypatch.chdir(package)
    code = (package / "README.md").read_text().split("```python\n")[1].split("```")[0]
    assert '"cuda"' in code and "sparsify_(program, semi_sparse_weight(), filter_fn=is_sparse)" in code
    exec(compile(code, "README.md", "exec"), {"__name__": "readme"})
    steps = float(capsys.readouterr().out.split("recorded outputs: ")[1].split(" ")[0])
    assert len(runner.calls) == 2 and steps <= 1


def test_the_runner_refuses_a_half_weight_that_disobeys(package, runner):
    module = torch.export.load(package / "model.pt2").module()
    with torch.no_grad():
        module.hidden.weight[5, :3] = 1
    with pytest.raises(SystemExit, match="weight of `hidden` is float16 and does not obey 2:4"):
        runner.compress_(module)


def test_the_runner_refuses_a_weight_that_stayed_dense(package, runner, monkeypatch):
    from torchao.sparsity import sparse_api

    monkeypatch.setattr(sparse_api, "to_sparse_semi_structured", lambda weight: weight)
    with pytest.raises(SystemExit, match="weight of `tokens` was not compressed"):
        runner.compress_(torch.export.load(package / "model.pt2").module())


def test_a_dense_baseline_runs_as_it_is(runner, tmp_path):
    exporter.export_dense_fp32(Mlp(), models.inputs(1), tmp_path / "dense.pt2")
    module = torch.export.load(tmp_path / "dense.pt2").module()
    assert runner.compress_(module) == [] and module.hidden.weight.dtype == torch.float32


@with_cuda
def test_program_passes_both_gates_on_the_gpu(package, sparse_task, half_reference):
    assert run_gates(package, sparse_task, half_reference, TARGET, models.inputs(48, seed=7)).passed
    assert "largest difference to the recorded outputs" in models.readme_output(package)
