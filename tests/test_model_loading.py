"""Models and checkpoints: every format loads the same numbers, every misfit is listed."""

import hashlib
import os
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from tsn_toolkit.errors import ModelError
from tsn_toolkit.model_loading import check_logits, load_checkpoint, load_model, set_head

NET = """
import torch
from torch import nn

def make(width=4):
    return nn.Sequential(nn.Conv2d(1, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.Flatten(), nn.Linear(width * 4, 3))

def deep(count):
    return nn.Sequential(*[nn.Linear(2, 2, bias=False) for _ in range(count)])

def number():
    return 5
"""


@pytest.fixture
def folder(tmp_path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "net.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def trained_state() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = {"0.weight": (4, 1, 3, 3), "0.bias": (4,), "1.weight": (4,), "1.bias": (4,), "1.running_mean": (4,), "1.running_var": (4,)}
    shapes |= {"4.weight": (3, 16), "4.bias": (3,)}
    return {name: torch.rand(shape, generator=generator) for name, shape in shapes.items()}


@pytest.mark.parametrize("form", ["plain", "wrapped", "parallel", "wrapped_parallel", "safetensors"])
def test_checkpoint_forms_load_the_same_numbers(folder: Path, form: str) -> None:
    state = trained_state()  # without num_batches_tracked, which no result depends on
    named = {f"module.{name}": value for name, value in state.items()} if "parallel" in form else state
    file = folder / ("w.safetensors" if form == "safetensors" else "w.pth")
    if form == "safetensors":
        safetensors.torch.save_file(state, file)
    else:
        torch.save({"state_dict": named, "epoch": 3} if "wrapped" in form else named, file)
    model = load_model("net.py:make", file)
    assert not model.training
    loaded = model.state_dict()
    for name, value in state.items():
        assert torch.equal(loaded[name], value)


def test_misfit_lists_all_three_kinds(folder: Path) -> None:
    state = trained_state()
    del state["4.bias"]
    state["head.weight"] = torch.zeros(3)
    state["1.weight"] = torch.zeros(5)
    torch.save(state, "w.pt")
    with pytest.raises(ModelError) as caught:
        load_model("net.py:make", "w.pt")
    text = str(caught.value)
    assert "1 missing: 4.bias" in text
    assert "1 unexpected: head.weight" in text
    assert "1 misshapen: 1.weight (checkpoint (5,), model (4,))" in text


def test_misfit_shows_eight_keys_and_counts_the_rest(folder: Path) -> None:
    torch.save({"9.weight": torch.zeros(2, 2)}, "w.pt")
    with pytest.raises(ModelError, match=r"11 missing: 0\.weight, .*7\.weight, and 3 more"):
        load_model("net.py:deep(12)", "w.pt")


def test_a_factory_must_give_a_module(folder: Path) -> None:
    with pytest.raises(ModelError, match="'net.py:number' returned a int"):
        load_model("net.py:number")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("0.weight", float("nan"), "`0.weight` holds numbers that are not finite"),
        ("4.bias", float("inf"), "`4.bias` holds numbers that are not finite"),
        ("1.running_var", float("nan"), "`1.running_var` holds numbers that are not finite"),
    ],
)
def test_a_diverged_checkpoint_is_refused(folder: Path, name: str, value: float, message: str) -> None:
    state = trained_state()
    state[name].view(-1)[-1] = value
    torch.save(state, "w.pth")
    with pytest.raises(ModelError, match=rf"w.pth: {message}"):
        load_model("net.py:make", "w.pth")


def test_integers_are_no_weights_but_any_float_is(folder: Path) -> None:
    state = trained_state()
    torch.save({name: value.bfloat16() for name, value in state.items()}, "w.pth")
    assert torch.equal(load_model("net.py:make", "w.pth").state_dict()["0.weight"], state["0.weight"].bfloat16().float())
    torch.save({**state, "4.weight": torch.ones(3, 16, dtype=torch.int8)}, "w.pth")
    with pytest.raises(ModelError, match="`4.weight` is torch.int8, the model has torch.float32. Name a checkpoint of float weights"):
        load_model("net.py:make", "w.pth")


class Evil:
    def __reduce__(self):
        return (os.getcwd, ())


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gone.pth", None, "gone.pth does not exist"),
        ("w.h5", b"x", "suffix '.h5'"),
        ("w.pth", b"", "w.pth cannot be read"),
        ("w.pth", b"PK\x03\x04 truncated zip", "w.pth cannot be read"),
        ("w.pth", b"hello world, no pickle", "w.pth cannot be read"),
        ("w.safetensors", b"\x08\x00\x00\x00\x00\x00\x00\x00{}", "w.safetensors is not a readable"),
    ],
)
def test_unreadable_checkpoints_are_refused(folder: Path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        Path(name).write_bytes(content)
    with pytest.raises(ModelError, match=message):
        load_checkpoint(name)


@pytest.mark.parametrize(
    ("value", "message"),
    [({"a": Evil()}, "weights_only=True"), ([1, 2], "holds a list"), ({}, "holds a dict without"), ({"epoch": 3}, "entry 'epoch' is a int")],
)
def test_other_contents_are_refused(folder: Path, value: object, message: str) -> None:
    torch.save(value, "w.pth")
    with pytest.raises(ModelError, match=message):
        load_checkpoint("w.pth")


def test_digest_is_checked(folder: Path) -> None:
    torch.save(trained_state(), "w.pth")
    digest = hashlib.sha256(Path("w.pth").read_bytes()).hexdigest()
    load_model("net.py:make", "w.pth", sha256=digest)
    with pytest.raises(ModelError, match=f"sha256 {digest}, expected {'0' * 64}"):
        load_model("net.py:make", "w.pth", sha256="0" * 64)


def test_set_head_replaces_the_classifier_and_no_other_number(folder: Path) -> None:
    model = load_model("net.py:make")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.random.get_rng_state()
    assert set_head(model, "4", 7, generator=torch.Generator().manual_seed(5)) is model
    assert torch.equal(torch.random.get_rng_state(), state)
    head = model[4]
    assert (head.in_features, head.out_features, head.training) == (16, 7, False)
    assert head.weight.abs().max() <= 0.25
    assert head.weight.unique().numel() > 50
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items() if not name.startswith("4."))
    again = set_head(load_model("net.py:make"), "4", 7, generator=torch.Generator().manual_seed(5))
    assert torch.equal(again[4].weight, head.weight)
    assert model(torch.zeros(2, 1, 4, 4)).shape == (2, 7)


def test_set_head_of_a_pointwise_convolution() -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Sequential(nn.Conv2d(4, 10, 1, bias=False)))
    set_head(model, "1.0", 3)
    assert model(torch.zeros(1, 2, 5, 5)).shape == (1, 3, 3, 3)
    assert model[1][0].bias is None


@pytest.mark.parametrize(
    ("path", "classes", "message"), [("fc", 2, "no module 'fc'"), ("", 2, "no module ''"), ("0", 2, "'0' is Conv2d"), ("4", 0, "got 0")]
)
def test_set_head_refuses(folder: Path, path: str, classes: int, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        set_head(load_model("net.py:make"), path, classes)


@pytest.mark.data
def test_real_checkpoint_loads_into_our_definition_and_no_other(tsn_data: Path) -> None:
    checkpoint = tsn_data / "checkpoints" / "distiller_resnet20_cifar100.pth"
    if not checkpoint.is_file():
        pytest.skip(f"{checkpoint.name} is not in TSN_DATA")
    model = load_model("tsn_toolkit.models.resnet_cifar:resnet(depth=20)", checkpoint)
    stored = torch.load(checkpoint, weights_only=True)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in stored.items())
    with pytest.raises(ModelError, match=r"does not fit the model:\n  \d+ missing: layer1\.3\.conv1\.weight"):
        load_model("tsn_toolkit.models.resnet_cifar:resnet(depth=32)", checkpoint)


class Answers(nn.Module):
    """Two linear layers over the same input; `form` says what the forward makes of them."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form, self.first, self.second = form, nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> object:
        first, second = self.first(x), self.second(x)
        if self.form == "sum":
            return first + second
        if self.form == "training" and self.training:
            return first, second
        return {"tuple": (first, second), "dict": {"logits": first}, "flat": first.sum(1)}.get(self.form, first)


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ("tuple", "answers with a tuple; a task is trained on one tensor of logits"),
        ("dict", "answers with a dict"),
        ("training", r"answers with a tuple.*`first` alone, in training mode too"),
        ("sum", r"cannot run with a head `first` of 4 outputs.*nothing behind it may count on their number"),
        ("flat", r"answers 2 examples with shape \(2,\) .* it must be \(2, 4\)"),
    ],
)
def test_what_a_task_cannot_be_trained_on_is_refused(form: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        check_logits(Answers(form), "first", (4,))


def test_checking_logits_changes_nothing() -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Dropout(), nn.Linear(5, 3))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    check_logits(model, "3", (4,))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items()) and model[3].out_features == 3
    assert model.training
