"""The command `tsn`: what it prints, where, and its exit codes."""

import functools
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from click.testing import Result

import tsn_toolkit
from tsn_toolkit import delivery
from tsn_toolkit.bench.latency import bench_package
from tsn_toolkit.delivery import BenchSettings
from tsn_toolkit.export.manifest import add_measurements
from tsn_toolkit.pipeline import commands
from tsn_toolkit.recipe.yaml_document import parse_yaml
from tsn_toolkit.store.store import Store

ROOT = Path(__file__).resolve().parents[1]
Run = Callable[..., Result]
MODEL = "tsn_toolkit.models.small_cnn:small_cnn(width=8)"


def one_object(done: Result) -> dict:
    """The one JSON object on stdout, and nothing else there."""
    assert done.exit_code == 0, done.stderr
    value = json.loads(done.stdout)
    assert isinstance(value, dict)
    return value


# ------------------------------------------------------------------------------------------------------------------ processes


@pytest.mark.parametrize("command", [["-m", "tsn_toolkit"], [str(ROOT / "cli.py")]], ids=["python -m tsn_toolkit", "python cli.py"])
def test_both_ways_to_start_it_without_an_installation(command: list[str]) -> None:
    done = subprocess.run([sys.executable, *command, "strategies", "list"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "tsn" in done.stdout.split()


def test_help_names_every_command(tsn: Run) -> None:
    text = tsn("--help").stdout
    commands = "init analyze plan run resume add-task inspect export verify bench report recipes targets strategies"
    assert [command for command in commands.split() if f"  {command} " not in text] == []


def test_help_is_quick(fresh_tsn: Callable, tmp_path: Path) -> None:
    """No heavy library is imported to print a page of help."""
    code = "import sys; sys.argv = ['tsn', 'run', '--help']; import runpy\ntry: runpy.run_module('tsn_toolkit', run_name='__main__')\n"
    code += "except SystemExit: print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "False"


@pytest.mark.parametrize(
    "arguments",
    [["no-such-command"], ["run"], ["run", "digits", "--no-such-option"], ["analyze", MODEL], ["export", "store"], ["run", "digits", "--seed", "-1"]],
)
def test_wrong_usage_is_2(tsn: Run, arguments: list[str]) -> None:
    done = tsn(*arguments)
    assert done.exit_code == 2
    assert done.stdout == ""
    assert "Usage:" in done.stderr


@pytest.mark.parametrize("shape", ["nonsense", "1x3x", "0x3x8x8", "32", "1x-3x8x8", "1", "1x3:int65", ""])
def test_a_nonsense_input_shape_is_wrong_usage(tsn: Run, shape: str) -> None:
    done = tsn("analyze", MODEL, "--input", shape)
    assert done.exit_code == 2
    assert f"{shape!r} is not a shape such as 1x3x32x32" in done.stderr


@pytest.mark.parametrize("shape", ["1x99999999x999999999", "1x99999999999x99999999", f"1x{10**30}"])
def test_a_shape_that_no_memory_takes_is_wrong_usage(tsn: Run, shape: str) -> None:
    done = tsn("analyze", MODEL, "--input", shape)
    assert done.exit_code == 2
    assert f"{shape!r} has more values than the memory takes" in done.stderr


# -------------------------------------------------------------------------------------------------------------- recipe and plan


def test_dry_run_prints_the_resolved_recipe_and_writes_nothing(tsn: Run, tiny_recipe: Path, tmp_path: Path) -> None:
    done = tsn("run", tiny_recipe, "--set", "training.epochs=7", "--seed", 3, "--dry-run", "--out", tmp_path / "run")
    assert done.exit_code == 0
    resolved = parse_yaml(done.stdout).data
    assert (resolved["training"]["epochs"], resolved["seed"], resolved["plan"]["density"]) == (7, 3, 0.3)
    assert list(tmp_path.iterdir()) == []
    assert one_object(tsn("run", tiny_recipe, "--set", "training.epochs=7", "--seed", 3, "--dry-run", "--json")) == resolved


def test_a_plan_can_be_edited_and_run(tsn: Run, tiny_recipe: Path, tmp_path: Path) -> None:
    printed = tsn("plan", tiny_recipe)
    file = tmp_path / "plan.yaml"
    assert tsn("plan", tiny_recipe, "--out", file).stdout == ""
    assert file.read_text(encoding="utf-8") == printed.stdout
    plan = parse_yaml(printed.stdout).data
    assert "conv4" in str(plan)
    file.write_text(printed.stdout.replace("bit_width: 4", "bit_width: 2"), encoding="utf-8")
    settings = ("--set", f"plan.file={file}", "--set", "tasks.count=1")
    assert tsn("run", tiny_recipe, *settings, "--out", tmp_path / "run").exit_code == 0
    layers = Store.open(tmp_path / "run" / "store").held("classes-0-1")
    assert {layer.codes.bit_width for layer in layers.values() if layer.codes is not None} == {2}


def test_a_plan_takes_the_place_of_no_other_file(tsn: Run, tiny_recipe: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_bytes(tiny_recipe.read_bytes())
    done = tsn("plan", recipe, "--out", recipe)
    assert done.exit_code == 1
    assert f"`{recipe}` exists and is no plan" in done.stderr
    assert recipe.read_bytes() == tiny_recipe.read_bytes()
    for bits in (4, 2):
        assert tsn("plan", recipe, "--out", tmp_path / "plan.yaml", "--set", f"plan.bit_width={bits}").exit_code == 0
    assert "bit_width: 2" in (tmp_path / "plan.yaml").read_text(encoding="utf-8")


# ------------------------------------------------------------------------------------------------------------------------- model


def test_analyze_as_table_json_and_files(tsn: Run, tmp_path: Path) -> None:
    table = tsn("analyze", MODEL, "--input", "1x1x8x8", "--out", tmp_path)
    assert table.exit_code == 0
    assert [line.split()[0] for line in table.stdout.splitlines()[2:7]] == ["conv1", "conv2", "conv3", "conv4", "head"]
    record = one_object(tsn("analyze", MODEL, "--input", "2x1x8x8", "--json"))
    assert json.loads((tmp_path / "graph.json").read_text(encoding="utf-8")) == record
    assert (tmp_path / "graph.svg").read_text(encoding="utf-8").startswith("<svg")
    macs = 8 * 9 * 64 + 16 * 8 * 9 * 16 + 2 * 16 * 16 * 9 * 16 + 64 * 10  # by hand, layer by layer
    assert sum(node["macs"] for node in record["nodes"]) == macs


def test_analyze_takes_several_inputs_of_other_types(tsn: Run, tmp_path: Path) -> None:
    file = tmp_path / "net.py"
    file.write_text(
        "import torch\nfrom torch import nn\n\n\nclass Net(nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n"
        "        self.words, self.image, self.head = nn.Embedding(50, 8), nn.Linear(6, 8), nn.Linear(8, 3)\n\n"
        "    def forward(self, ids, image):\n        return self.head(self.words(ids).mean(1) + self.image(image))\n\n\n"
        "def inputs():\n    return {'ids': torch.zeros(1, 5, dtype=torch.int64), 'image': torch.zeros(1, 6)}\n",
        encoding="utf-8",
    )
    by_shape = one_object(tsn("analyze", f"{file}:Net", "--input", "1x5:int64,1x6", "--json"))
    by_factory = one_object(tsn("analyze", f"{file}:Net", "--input", f"{file}:inputs", "--json"))
    assert by_shape["macs"] == by_factory["macs"] == 6 * 8 + 8 * 3
    assert by_shape["layers"] == by_factory["layers"] and [layer["name"] for layer in by_shape["layers"]] == ["image", "head"]
    assert by_shape["free_parameters"] == [{"name": "words.weight", "shape": [50, 8]}]
    assert "free parameters, which stay float: words.weight 50x8" in tsn("analyze", f"{file}:Net", "--input", "1x5:int64,1x6").stdout


def test_analyze_says_what_a_target_takes(tsn: Run) -> None:
    record = one_object(tsn("analyze", MODEL, "--input", "1x1x8x8", "--target", "cpu_onnxruntime", "--json"))
    target = record["target"]
    assert (target["name"], target["integer_mac_share"], target["stays_float"]) == ("cpu_onnxruntime", 1.0, [])
    roofline = target["roofline"]
    assert roofline["microseconds"] == pytest.approx(sum(roofline["modules"].values())) and set(roofline["modules"]) >= {"conv1", "head"}
    unknown = tsn("analyze", MODEL, "--input", "1x1x8x8", "--target", "cpu_onnxruntim")
    assert unknown.exit_code == 1 and "cpu_onnxruntime" in unknown.stderr


# ------------------------------------------------------------------------------------------------------------------------- store


def test_inspect_adds_up_to_the_bytes_on_disk(tsn: Run, tiny_run: Path) -> None:
    result = one_object(tsn("inspect", tiny_run / "store", "--json"))
    sizes = {p.relative_to(tiny_run / "store").as_posix(): p.stat().st_size for p in (tiny_run / "store").rglob("*") if p.is_file()}
    assert {part["path"]: part["bytes"] for part in result["parts"]} == sizes
    assert result["total_bytes"] == sum(sizes.values())
    keys = {"values", "masks", "codebooks", "scales", "norms", "biases", "heads", "metadata"}
    for part in result["parts"]:
        assert set(part["breakdown"]) == keys
        assert sum(part["breakdown"].values()) == part["bytes"]
    assert [(task["name"], task["parent"]) for task in result["tasks"]] == [
        ("classes-0-1", "trunk"),
        ("classes-2-3", "classes-0-1"),
        ("classes-4-5", "classes-2-3"),
    ]
    assert result["entropy_bytes"] > 0
    text = tsn("inspect", tiny_run / "store").stdout
    assert f"{result['total_bytes']:,}" in text and "classes-4-5" in text
    for layer in result["layers"]:
        assert sum(layer["allocated"].values()) == layer["slots"]
        assert sum(int(bits) * slots for bits, slots in layer["allocated"].items()) == sum(layer["by_owner"].values())
        assert f"{layer['slots']:>10,} {layer['word_bits']:>5}" in text


def test_verify_of_a_store(tsn: Run, tiny_run: Path) -> None:
    result = one_object(tsn("verify", tiny_run / "store", "--json"))
    store = Store.open(tiny_run / "store")
    assert [(task["name"], task["codes_hash"]) for task in result["tasks"]] == [(e.name, store.codes_hash(e.name)) for e in store.entries]
    assert "classes-4-5" in tsn("verify", tiny_run / "store").stdout


def test_report_is_written_again(tsn: Run, tiny_run: Path) -> None:
    report = tiny_run / "report.html"
    before = report.read_bytes()
    report.unlink()
    done = tsn("report", tiny_run)
    assert (done.exit_code, done.stdout) == (0, f"{report}\n")
    assert report.read_bytes() == before


# ----------------------------------------------------------------------------------------------------------------------- package


@pytest.fixture(scope="module")
def package(tsn: Run, tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One task exported; the folder is given relative to the working folder, as a user does."""
    folder = tmp_path_factory.mktemp("export")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(commands, "bench_settings", lambda recipe: BenchSettings(seconds=0.02, batches=(1,)))
        done = tsn("export", tiny_run / "store", "--task", "classes-2-3", "--target", "cpu_onnxruntime", "--out", "out", "--json")
    result = one_object(done)
    assert "Warning" not in done.stderr
    made = result["packages"]["cpu_onnxruntime"]
    assert made["path"] == "out/cpu_onnxruntime"
    assert made["parity"]["passed"] is True
    assert made["parity"]["integer_mac_share"] >= 0.9
    assert made["model_bytes"] == (folder / "out" / "cpu_onnxruntime" / "model.onnx").stat().st_size
    return folder / "out" / "cpu_onnxruntime"


def test_a_package_holds_what_it_promises(package: Path) -> None:
    assert {"manifest.json", "parity.json", "bench.json", "model.onnx"} <= {path.name for path in package.iterdir()}
    assert json.loads((package / "parity.json").read_text(encoding="utf-8"))["passed"] is True


def test_verify_of_a_package(tsn: Run, package: Path) -> None:
    result = one_object(tsn("verify", package, "--json"))
    assert result["passed"] is True and result["failures"] == []
    assert result["samples"] > 0
    refused = tsn("verify", package, "--measure")
    assert refused.exit_code == 1
    assert "is a package; --measure is for a store" in refused.stderr


def test_a_package_that_answers_otherwise_is_1(tsn: Run, package: Path, tmp_path: Path) -> None:
    """The high bit of one weight is another, and the manifest knows the file's new hash."""
    copy = Path(shutil.copytree(package, tmp_path / "copy"))
    model = onnx.load(copy / "model.onnx")
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "head.weight")
    weight.raw_data = bytes([weight.raw_data[0] ^ 0x80]) + weight.raw_data[1:]
    onnx.save(model, copy / "model.onnx")
    add_measurements(copy, {})
    as_json, as_text = tsn("verify", copy, "--json"), tsn("verify", copy)
    result = json.loads(as_json.stdout)
    assert result["passed"] is False and "differs from the recorded outputs" in result["failures"][0]
    assert "passed: False" in as_text.stdout
    for done in (as_json, as_text):
        assert done.exit_code == 1
        assert done.stderr == f"error: {copy}: {result['failures'][0]}\n"


def test_bench_of_a_package(tsn: Run, package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "bench_package", functools.partial(bench_package, seconds=0.02, rounds=1))
    result = one_object(tsn("bench", package, "--json"))
    assert {"batch_1", "batch_32"} <= set(result)
    for batch in (result["batch_1"], result["batch_32"]):
        assert 0 < batch["q1"] <= batch["median"] <= batch["q3"]


def test_bench_beside_the_dense_network_of_a_store(tsn: Run, package: Path, tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "bench_package", functools.partial(bench_package, rounds=1))
    monkeypatch.setattr(commands, "bench_settings", lambda recipe: BenchSettings(seconds=0.02, batches=(1,)))
    result = one_object(tsn("bench", package, "--store", tiny_run / "store", "--json"))
    assert result["batch_1"]["dense_fp32_median"] > 0 and result["batch_1"]["vendor_int8_median"] > 0
    assert result["vendor_int8"]["bytes"] > 0 and result["vendor_int8"]["accuracy"] is None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_an_export_that_is_told_to_end_leaves_nothing(tiny_run: Path, tmp_path: Path, number: signal.Signals) -> None:
    """The signal comes while the package's draft is there. What starts the tests may ignore it, which the export would take over."""
    out = tmp_path / "out"
    export = ["export", str(tiny_run / "store"), "--task", "classes-0-1", "--target", "cpu_torch", "--out", str(out)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "preexec_fn": lambda: signal.signal(number, signal.SIG_DFL)}
    with subprocess.Popen([sys.executable, "-m", "tsn_toolkit", *export], cwd=ROOT, **quiet) as process:
        while process.poll() is None and not (out.is_dir() and any(out.iterdir())):
            time.sleep(0.01)
        process.send_signal(number)
        assert process.wait(timeout=100) == 128 + number
    assert list(out.iterdir()) == []


# ------------------------------------------------------------------------------------------------------------------------- lists


def test_a_malformed_target_hides_no_other(tsn: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hw_targets").mkdir()
    (tmp_path / "hw_targets" / "bad.yaml").write_text("name: [", encoding="utf-8")
    expected = tsn("targets", "list").stdout
    monkeypatch.chdir(tmp_path)
    done = tsn("targets", "list")
    assert done.exit_code == 1 and done.stdout == expected and "cpu_onnxruntime" in expected
    assert done.stderr.startswith(f"error: Target file `{tmp_path / 'hw_targets' / 'bad.yaml'}` is not YAML")


@pytest.mark.parametrize(
    ("kind", "name", "part"),
    [
        ("recipes", "digits", "schema: 1"),
        ("targets", "cpu_onnxruntime", "max_code"),
        ("strategies", "tsn", "isolation: exact"),
        ("strategies", "supsup", "    min_gain: smallest gain"),
    ],
)
def test_lists_and_their_entries(tsn: Run, kind: str, name: str, part: str) -> None:
    listed = tsn(kind, "list")
    assert listed.exit_code == 0
    assert name in [line.split()[0] for line in listed.stdout.splitlines()]
    assert part in tsn(kind, "show", name).stdout


@pytest.mark.parametrize(("kind", "name"), [("recipes", "digitz"), ("targets", "cpu_onnxruntim"), ("strategies", "tns")])
def test_an_unknown_name_lists_the_known_ones(tsn: Run, kind: str, name: str) -> None:
    done = tsn(kind, "show", name)
    assert done.exit_code == 1
    assert name in done.stderr and "did you mean" in done.stderr and "known" in done.stderr


def test_the_version(tsn: Run) -> None:
    assert tsn_toolkit.__version__ in tsn("--version").stdout
