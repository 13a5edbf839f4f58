"""What a user gets wrong: one message that says what, where, the rule and what to do; exit code 1; no traceback; nothing of theirs is touched."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import Result

from tsn_toolkit.models.small_cnn import small_cnn
from tsn_toolkit.store.folder import writer_lock

Run = Callable[..., Result]

MODELS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, middle):
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.middle = middle
        self.head = nn.Linear(8, 10)

    def forward(self, x):
        return self.head(self.middle(torch.relu(self.bn(self.conv(x)))).mean((2, 3)))

class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True, add_bias_kv=True)

    def forward(self, x):
        tokens = x.flatten(2).transpose(1, 2)
        return self.attention(tokens, tokens, tokens)[0].transpose(1, 2).reshape(x.shape)

class Token(nn.Module):
    def __init__(self):
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 8, 1, 1))

    def forward(self, x):
        return x + self.token

class Level(nn.Module):
    def __init__(self, moving):
        super().__init__()
        self.moving = moving
        self.register_buffer("level", torch.full((1,), 0.5))

    def forward(self, x):
        if self.moving and self.training:
            self.level.mul_(0.9).add_(x.mean())
        return x - self.level

class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.b(torch.relu(self.a(x)))

class Branch(nn.Module):
    def forward(self, x):
        return x * 2 if x.sum() > 0 else x

def attention(): return Net(Attention())
def transposed(): return Net(nn.ConvTranspose2d(8, 8, 1))
def token(): return Net(Token())
def prelu(): return Net(nn.PReLU())
def instance(): return Net(nn.InstanceNorm2d(8, affine=True))
def moving(): return Net(Level(True))
def constant(): return Net(Level(False))
def tied(): return Net(Tied())
def branch(): return Net(Branch())
def batch(): return Net(nn.BatchNorm2d(8, track_running_stats=False))
def group(): return Net(nn.GroupNorm(2, 8))
def wide(width): return Net(nn.Identity())
def number(): return 3
"""


@pytest.fixture
def refused(tsn: Run, tiny_recipe: Path, tmp_path: Path) -> Callable[..., str]:
    """Runs the tiny recipe with settings that must be refused; returns the message, in which there is no traceback."""

    def run(*settings: str) -> str:
        words = [word for setting in settings for word in ("--set", setting)]
        return message(tsn("run", tiny_recipe, *words, "--out", tmp_path / "run"))

    return run


def message(done: Result) -> str:
    """The error of a command that failed as it should."""
    assert done.exit_code == 1
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert done.stderr.count("error: ") == 1
    return done.stderr[done.stderr.index("error: ") :]


def test_three_mistakes_come_in_one_message_with_their_lines(tsn: Run, tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    text = "schema: 1\nname: bad\nmodel:\n  factory: a.b:c\ndata:\n  source: digitz\ntraining:\n  epohcs: 3\nplan:\n  density: 1.4\n"
    path.write_text(text, encoding="utf-8")
    lines = message(tsn("run", path, "--out", tmp_path / "run")).splitlines()
    assert lines[0] == f"error: 3 problems in recipe {path}:"
    expected = [(6, "digitz", "digits"), (8, "epohcs", "epochs"), (10, "1.4", "less than or equal to 1")]
    for line, (place, value, hint) in zip(lines[1:], expected, strict=True):
        assert line.startswith(f"{path}:{place}: ")
        assert value in line and hint in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("data={source: cifar-binary, path: no/such/folder}", ["no/such/folder does not exist (working folder: /", "train.bin", "data.path"]),
        ("data={source: npz, path: /no/such.npz}", ["/no/such.npz does not exist;", "data.path"]),
        ("data={source: npz, path: '${TSN_NO_SUCH}/a'}", ["environment variable TSN_NO_SUCH", "export TSN_NO_SUCH="]),
        ("model.checkpoint=none.pth", ["none.pth does not exist (working folder: /"]),
        ("model.factory=none.py:make", ["none.py does not exist", "Correct the path"]),
        ("model.factory=no.such:make", ["module 'no.such' not found"]),
        ("plan.file=none.yaml", ["`none.yaml` cannot be read"]),
        ("plan={units_keep: 1.0, density: 1.0, bit_width: 8}", ["change nothing", "Lower `density`", "conv4: density 1, 8 bits, all units stay"]),
        ("targets=[cpu_onnxruntim]", ["'cpu_onnxruntim'", "did you mean 'cpu_onnxruntime'"]),
        ("strategy.name=tns", ["'tns'", "did you mean 'tsn'", "frozen_trunk"]),
        ("tasks.per_task=3", ["per_task", "got 3", "[2, 5, 10] do"]),
    ],
)
def test_a_wrong_setting_is_named_with_its_value_and_a_way_out(refused: Callable[..., str], setting: str, words: list[str]) -> None:
    text = refused(setting)
    assert [word for word in words if word not in text] == []


def test_a_checkpoint_of_another_architecture_lists_its_keys(refused: Callable[..., str], tmp_path: Path) -> None:
    state = small_cnn(width=8).state_dict()
    del state["bn1.bias"]
    state["extra.weight"], state["conv4.weight"] = torch.zeros(1), torch.zeros(3, 5)
    torch.save(state, tmp_path / "other.pth")
    lines = [line.strip() for line in refused(f"model.checkpoint={tmp_path / 'other.pth'}").splitlines()]
    assert "1 missing: bn1.bias" in lines
    assert "1 unexpected: extra.weight" in lines
    assert "1 misshapen: conv4.weight (checkpoint (3, 5), model (16, 16, 3, 3))" in lines


@pytest.mark.parametrize(
    ("key", "settings"),
    [
        ("model.reference_accuracy", ["model.reference_accuracy=0.9"]),
        ("plan.budget", ["plan={budget: {macs_kept: 0.7, units: [0.5]}}"]),
        ("reference.dense", ["reference.dense=checkpoint", "tasks={split: explicit, explicit: [{name: a, classes: [0, 9]}]}"]),
    ],
)
def test_a_checkpoint_that_has_not_all_classes_is_not_measured_on_them(
    refused: Callable[..., str], tmp_path: Path, key: str, settings: list[str]
) -> None:
    torch.save(small_cnn(width=8, classes=4).state_dict(), tmp_path / "four.pth")
    model = f"model={{factory: 'tsn_toolkit.models.small_cnn:small_cnn(width=8, classes=4)', checkpoint: {tmp_path / 'four.pth'}}}"
    text = refused(model, *settings)
    assert f"`{key}` measures the checkpoint's own logits: its head `head` has 4, the data has a class 9." in text
    assert not (tmp_path / "run" / "store").exists()


@pytest.mark.parametrize(
    ("factory", "words"),
    [
        ("attention", ["`middle.attention.in_proj_weight` of shape (24, 8) (MultiheadAttention)", "no place"]),
        ("transposed", ["`middle.weight` of shape (8, 8, 1, 1) (ConvTranspose2d)"]),
        ("prelu", ["`middle.weight` of shape (1,) (PReLU)"]),
        ("instance", ["`middle.weight` of shape (8,) (InstanceNorm2d)"]),
        ("moving", ["training changes buffer `middle.level`"]),
        ("tied", ["`middle.a.weight` and `middle.b.weight` are one tensor"]),
        ("batch", ["norm `middle` keeps no running statistics", "track_running_stats=True"]),
        ("branch", ["cannot be traced", "models.py:", "x * 2 if x.sum() > 0 else x", "torch.where"]),
        ("wide", ["missing a required argument: 'width'", "wide(width)"]),
        ("number", ["returned a int", "torch.nn.Module"]),
        ("nmuber", ["has no 'nmuber'", "did you mean 'number'"]),
    ],
)
def test_a_model_that_cannot_be_stored_is_refused_before_anything_is_learned(
    refused: Callable[..., str], tmp_path: Path, factory: str, words: list[str]
) -> None:
    (tmp_path / "models.py").write_text(MODELS, encoding="utf-8")
    text = refused(f"model.factory={tmp_path / 'models.py'}:{factory}")
    assert [word for word in words if word not in text] == []
    assert not (tmp_path / "run" / "store").exists()


@pytest.mark.parametrize("factory", ["constant", "group", "token"])
def test_constants_group_norms_and_parameters_of_own_modules_are_stored(tsn: Run, tiny_recipe: Path, tmp_path: Path, factory: str) -> None:
    (tmp_path / "models.py").write_text(MODELS, encoding="utf-8")
    settings = ("--set", f"model.factory={tmp_path / 'models.py'}:{factory}", "--set", "tasks.count=1")
    assert tsn("run", tiny_recipe, *settings, "--out", tmp_path / "run").exit_code == 0


def test_a_flipped_byte_names_its_part(tsn: Run, tiny_run: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_run / "store", tmp_path / "store")
    part = tmp_path / "store" / "tasks" / "001-classes-2-3.safetensors"
    data = bytearray(part.read_bytes())
    data[-5] ^= 4
    part.write_bytes(data)
    for command in (["verify", tmp_path / "store"], ["inspect", tmp_path / "store"], ["verify", tmp_path / "store", "--measure"]):
        assert "part `tasks/001-classes-2-3.safetensors` is damaged" in message(tsn(*command))


def test_a_run_folder_that_exists_is_kept(tsn: Run, tiny_recipe: Path, tiny_run: Path) -> None:
    before = (tiny_run / "summary.json").read_bytes()
    assert f"{tiny_run} already holds a run. Continue it with `tsn resume {tiny_run}`" in message(tsn("run", tiny_recipe, "--out", tiny_run))
    assert (tiny_run / "summary.json").read_bytes() == before


def test_a_run_that_stopped_at_a_mistake_can_be_started_again(refused: Callable[..., str], tsn: Run, tiny_recipe: Path, tmp_path: Path) -> None:
    refused("plan.file=none.yaml")
    assert tsn("run", tiny_recipe, "--set", "tasks.count=1", "--out", tmp_path / "run").exit_code == 0


def test_a_store_that_another_writer_holds(tsn: Run, tiny_recipe: Path, tiny_run: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_run / "store", tmp_path / "store")
    with writer_lock(tmp_path / "store"):
        text = message(tsn("add-task", tmp_path / "store", tiny_recipe, "--set", "tasks.count=4"))
    assert "store: another process is writing this store" in text and "Wait" in text


def test_a_store_that_holds_every_task_already(tsn: Run, tiny_recipe: Path, tiny_run: Path) -> None:
    text = message(tsn("add-task", tiny_run / "store", tiny_recipe))
    assert "already holds every task of recipe `tiny` (classes-0-1, classes-2-3, classes-4-5)" in text
    assert "Name a recipe with a new task" in text


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("model.factory='tsn_toolkit.models.small_cnn:small_cnn(width=12)'", ["small_cnn(width=8)", "small_cnn(width=12)", "another network"]),
        ("model.factory='tsn_toolkit.models.mlp:mlp'", ["mlp:mlp", "another network", "Name the store's factory"]),
        ("data.input_shape=[1, 10, 10]", ["`classes-6-7`", "(1, 10, 10)", "(1, 8, 8)", "`data.input_shape`"]),
    ],
)
def test_a_task_for_another_network_or_of_another_shape(
    tsn: Run, tiny_recipe: Path, tiny_run: Path, tmp_path: Path, setting: str, words: list[str]
) -> None:
    shutil.copytree(tiny_run / "store", tmp_path / "store")
    text = message(tsn("add-task", tmp_path / "store", tiny_recipe, "--set", "tasks.count=4", "--set", setting))
    assert [word for word in words if word not in text] == []
    assert (tmp_path / "store" / "manifest.json").read_bytes() == (tiny_run / "store" / "manifest.json").read_bytes()


def test_a_head_of_another_size_is_no_other_network(tsn: Run, tiny_recipe: Path, tiny_run: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_run / "store", tmp_path / "store")
    setting = "model.factory='tsn_toolkit.models.small_cnn:small_cnn(width=8, classes=3)'"
    assert tsn("add-task", tmp_path / "store", tiny_recipe, "--set", "tasks.count=4", "--set", setting).exit_code == 0


def test_a_task_name_that_is_taken_in_the_recipe(refused: Callable[..., str]) -> None:
    text = refused("tasks={split: explicit, explicit: [{name: a, classes: [0, 1]}, {name: a, classes: [2, 3]}]}")
    assert "is taken, got 'a'" in text and "Choose another" in text


@pytest.mark.parametrize(
    ("task", "target", "words"),
    [
        ("classes-0", "cpu_onnxruntime", ["no task `classes-0`", "classes-0-1"]),
        ("classes-0-1", "cpu_onnx", ["'cpu_onnx' is unknown", "did you mean 'cpu_onnxruntime'"]),
    ],
)
def test_an_export_of_what_is_not_there(tsn: Run, tiny_run: Path, tmp_path: Path, task: str, target: str, words: list[str]) -> None:
    text = message(tsn("export", tiny_run / "store", "--task", task, "--target", target, "--out", tmp_path / "out"))
    assert [word for word in words if word not in text] == []
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["run", "plan", "init", "analyze"])
def test_an_out_that_cannot_be_written(tsn: Run, tiny_recipe: Path, tmp_path: Path, command: str) -> None:
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    place = tmp_path / "file" / "out"
    arguments = {
        "run": ["run", tiny_recipe, "--out", place],
        "plan": ["plan", tiny_recipe, "--out", place],
        "init": ["init", place],
        "analyze": ["analyze", "tsn_toolkit.models.small_cnn:small_cnn", "--input", "1x1x8x8", "--out", place],
    }
    text = message(tsn(*arguments[command]))
    assert str(tmp_path / "file") in text and "Check the path" in text
    assert (tmp_path / "file").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["verify", "nothing"], ["nothing: not a store"]),
        (["inspect", "nothing"], ["nothing: not a store"]),
        (["bench", "nothing"], ["`nothing` is not a package"]),
        (["report", "nothing"], ["nothing holds no run"]),
        (["run", "digitz"], ["no recipe 'digitz'", "did you mean 'digits'"]),
        (["analyze", "tsn_toolkit.models.small_cnn:small_cnn", "--input", "1x3x8x8"], ["input of shape (1, 3, 8, 8)", "to have 1 channels"]),
        (["analyze", "tsn_toolkit.models.small_cnn:small_cnn", "--input", "1x1x8x8", "--head", "haed"], ["`haed`", "did you mean `head`"]),
    ],
)
def test_commands_on_what_is_not_there(tsn: Run, command: list[str], words: list[str]) -> None:
    text = message(tsn(*command))
    assert [word for word in words if word not in text] == []


@pytest.mark.parametrize("command", ["verify", "inspect"])
def test_the_folder_of_a_run_is_no_store_but_has_one(tsn: Run, tiny_run: Path, command: str) -> None:
    assert f"{tiny_run}: not a store, there is no `manifest.json`. It is a run's folder: give {tiny_run / 'store'}." in message(
        tsn(command, tiny_run)
    )


def test_debug_shows_the_traceback(tsn: Run, tiny_recipe: Path) -> None:
    from tsn_toolkit.errors import StoreError

    with pytest.raises(StoreError, match="nothing: not a store"):
        tsn("--debug", "inspect", "nothing")
