"""The wheel as a user gets it: what it installs, and that it works in an environment and a folder of its own."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.slow


def build(folder: Path, **settings: str) -> Path:
    """The wheel of this checkout, built by the backend itself, so that nothing is downloaded."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **settings}, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel as this machine builds it."""
    pytest.importorskip("hatchling", reason="hatchling builds the wheel: install the extra `test`")
    return build(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def tsn(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Runs the `tsn` of a clean environment that holds the wheel; the libraries come from the current environment."""
    home = tmp_path_factory.mktemp("environment")
    venv.create(home, with_pip=False)
    python = home / "bin" / "python"
    paths = dict.fromkeys(path for path in sys.path if Path(path).name in {"site-packages", "dist-packages"})
    purelib = Path(sysconfig.get_path("purelib", vars={"base": str(home), "platbase": str(home)}))
    # Only the folders: .pth files inside them (the editable install of this checkout) are not read.
    (purelib / "libraries.pth").write_text("\n".join(paths), encoding="utf-8")
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index", "--ignore-installed", str(wheel)]
    done = subprocess.run(install, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    environment = {key: value for key, value in os.environ.items() if key not in {"PYTHONPATH", "PYTHONHOME"}}

    def run(*arguments: str, folder: Path) -> str:
        done = subprocess.run([str(home / "bin" / "tsn"), *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=280)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


def test_the_wheel_installs_only_the_package(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"tsn_toolkit"}
    assert not [name for name in names if name.endswith((".pyc", ".log"))]


def test_the_wheel_carries_the_package_data(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    files = [*ROOT.glob("recipes/**/*.yaml"), *ROOT.glob("hw_targets/**/*.yaml")]
    expected = {f"tsn_toolkit/_data/{path.relative_to(ROOT).as_posix()}" for path in files}
    assert {"tsn_toolkit/_data/recipes/digits.yaml", "tsn_toolkit/_data/hw_targets/cpu_onnxruntime.yaml"} <= expected
    assert {name for name in names if name.startswith("tsn_toolkit/_data/")} >= expected
    sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / "tsn_toolkit").rglob("*.py")}
    assert sources | {"tsn_toolkit/py.typed"} <= names


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
def test_the_wheel_carries_the_compiled_decoder(wheel: Path) -> None:
    (decoder,) = [name for name in zipfile.ZipFile(wheel).namelist() if "_layer_decoder" in name]
    assert decoder.startswith("tsn_toolkit/store/_layer_decoder.") and not wheel.name.endswith("-none-any.whl")


@pytest.mark.parametrize("settings", [{"TSN_TOOLKIT_PURE": "1"}, {"CC": "/no/compiler"}], ids=["not wanted", "no compiler"])
def test_without_it_the_wheel_is_pure(wheel: Path, tmp_path: Path, settings: dict[str, str]) -> None:
    pure = build(tmp_path, **settings)
    assert pure.name.endswith("-py3-none-any.whl")
    without = {name for name in zipfile.ZipFile(wheel).namelist() if "_layer_decoder" not in name}
    assert set(zipfile.ZipFile(pure).namelist()) == without


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
def test_an_editable_install_has_the_decoder_of_its_sources(wheel: Path, tmp_path: Path) -> None:
    """One from before is replaced, and goes where none is wanted; those of other Python versions stay."""
    for name in ("pyproject.toml", "hatch_build.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("tsn_toolkit", "recipes", "hw_targets"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    store = tmp_path / "tsn_toolkit" / "store"
    module, other = store / f"_layer_decoder{sysconfig.get_config_var('EXT_SUFFIX')}", store / "_layer_decoder.other.so"
    for file in (module, other):
        file.write_bytes(b"old")
    command = [sys.executable, "-c", f"from hatchling.build import build_editable; build_editable({str(tmp_path)!r})"]
    for wanted in (True, False):
        settings = {} if wanted else {"TSN_TOOLKIT_PURE": "1"}
        done = subprocess.run(command, cwd=tmp_path, env={**os.environ, **settings}, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        assert other.is_file() and module.is_file() == wanted
        assert not wanted or module.read_bytes() != b"old"


def test_recipes_are_listed_from_another_folder(tsn: Callable[..., str], tmp_path: Path) -> None:
    assert "digits" in tsn("recipes", "list", folder=tmp_path).split()


def test_a_tiny_run_from_another_folder(tsn: Callable[..., str], tmp_path: Path) -> None:
    settings = ["training.epochs=1", "reference.epochs=1", "tasks.count=2", "data.train_limit=300", "data.test_limit=100", "targets=[]"]
    tsn("run", "digits", *(word for setting in settings for word in ("--set", setting)), "--out", "run", folder=tmp_path)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text(encoding="utf-8"))
    assert len(summary["tasks"]) == 2
    on_disk = sum(path.stat().st_size for path in (tmp_path / "run" / "store").rglob("*") if path.is_file())
    assert summary["store_bytes"] == on_disk
    assert (tmp_path / "run" / "report.html").is_file()
