"""The residual task and its package for ONNX Runtime as fixtures; makes the models of export tests importable."""

import shutil
import sys
from pathlib import Path

import pytest

from tsn_toolkit.export.package import write_package
from tsn_toolkit.target import load_target

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "export"))
import export_models as models  # noqa: E402
from residual_fixtures import ranges, reference, task  # noqa: E402, F401


@pytest.fixture(scope="module")
def package(task, ranges, tmp_path_factory):  # noqa: F811
    folder = tmp_path_factory.mktemp("packages") / "residual"
    write_package(task, ranges, load_target("cpu_onnxruntime"), folder, example_input=models.inputs(1))
    return folder


@pytest.fixture
def copy(package, tmp_path):
    return Path(shutil.copytree(package, tmp_path / "copy"))
