"""A module imports only what stands in a row above it; each heavy library has the one place where it may be imported."""

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "tsn_toolkit"

# From the bottom of the stack to the top; names in one row do not import each other.
ROWS = (
    {"errors", "vocabulary", "files", "separate_attention"},
    {"registry", "run_folder", "starter", "termination"},
    {"factory"},
    {"numerics", "target", "metrics", "contracts", "models", "model_loading", "free_parameters"},
    {"filling"},
    {"recipe"},
    {"graph"},
    {"data", "masks", "importance", "quantizers"},
    {"plan"},
    {"parts"},
    {"trainer"},
    {"strategies", "store"},
    {"workshop", "revisions"},
    {"extract"},
    {"export"},
    {"verify", "bench"},
    {"delivery"},
    {"joint_delivery"},
    {"report"},
    {"pipeline"},
    {"command_line"},
    {"__main__"},
)
ROW_OF = {name: row for row, names in enumerate(ROWS) for name in names}

# Library -> the parts of the package that may import it.
HOMES = {
    "click": {"command_line"},
    "networkx": {"graph"},
    "brevitas": {"quantizers", "export"},
    "onnx": {"export", "verify", "bench"},
    "onnxruntime": {"export", "verify", "bench"},
    "onnxoptimizer": {"export", "verify", "bench"},
    "openvino": {"export", "verify", "bench"},
    "nncf": {"export"},
    "executorch": {"export"},
    "torchao": {"export"},
    "tensorrt": {"export"},
    "onnxscript": {"export", "verify", "bench"},
    "jinja2": {"report"},
    "PIL": {"data"},
    "datasets": {"data"},
}
# A runtime is imported only inside the function that uses it, or in `run_<runtime>.py` and `quantize_<runtime>.py`, processes of their own.
RUNTIMES = {"onnx", "onnxruntime", "onnxoptimizer", "onnxscript", "openvino", "nncf", "tensorrt", "executorch", "torchao"}
PROGRAMS = ("run_", "quantize_")
EXTRAS = ("onnxruntime", "openvino", "nncf", "executorch", "tensorrt", "images", "datasets")

# Distribution in pyproject.toml -> names that it brings, where they differ.
IMPORT_NAMES = {
    "pillow": {"PIL"},
    "pydantic": {"pydantic", "pydantic_core"},
    "pyyaml": {"yaml"},
    "scikit-learn": {"sklearn"},
    "torch-pruning": {"torch_pruning"},
}


@dataclass(frozen=True)
class Import:
    """One import statement: where it stands, what it names, and whether it runs as soon as the module is imported."""

    path: Path
    line: int
    name: str
    at_import: bool

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line} imports {self.name}"


def walk(node: ast.AST, at_import: bool) -> Iterator[tuple[ast.AST, bool]]:
    """Yield every node below `node` and whether it runs when the module is imported."""
    for child in ast.iter_child_nodes(node):
        inside_function = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        typing_only = isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING")
        yield child, at_import
        yield from walk(child, at_import and not inside_function and not typing_only)


def imports_of(path: Path, source: str) -> list[Import]:
    """Every import of a file; `from tsn_toolkit import x` counts as `tsn_toolkit.x`."""
    found = []
    for node, at_import in walk(ast.parse(source), True):
        if isinstance(node, ast.Import):
            found += [Import(path, node.lineno, alias.name, at_import) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                folder = path.parents[node.level - 1].relative_to(ROOT)
                module = ".".join([*folder.parts, *([node.module] if node.module else [])])
            else:
                module = node.module or ""
            names = [f"{module}.{alias.name}" for alias in node.names] if module == "tsn_toolkit" else [module]
            found += [Import(path, node.lineno, name, at_import) for name in names]
    return found


def layer_of(path: Path) -> str:
    """First name below the package: `store` for `tsn_toolkit/store/bits.py`."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def problems(found: list[Import]) -> list[str]:
    """One sentence for each import that breaks a rule."""
    sentences = []
    for item in found:
        layer = layer_of(item.path)
        library, *rest = item.name.split(".")
        if library == "tsn_toolkit":
            other = rest[0] if rest else ""
            if layer == "__init__":
                sentences.append(f"{item}; the package's own __init__ imports nothing")
            elif other in ROW_OF and other != layer and ROW_OF[other] >= ROW_OF[layer]:
                sentences.append(f"{item}, which does not stand above {layer}")
        elif library in HOMES and layer not in HOMES[library]:
            sentences.append(f"{item}, which belongs into {sorted(HOMES[library])}")
        elif library in RUNTIMES and item.at_import and not item.path.stem.startswith(PROGRAMS):
            sentences.append(f"{item} when it is imported itself; import a runtime inside the function that uses it")
    return sentences


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def test_every_module_has_a_row() -> None:
    unknown = {layer_of(path) for path in sources()} - set(ROW_OF) - {"__init__"}
    assert not unknown, f"no row for {sorted(unknown)}"


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_only_from_above(path: Path) -> None:
    assert problems(imports_of(path, path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    ("file", "source", "message"),
    [
        ("plan/a.py", "from tsn_toolkit.store import x", "does not stand above plan"),
        ("masks/a.py", "from tsn_toolkit import data", "does not stand above masks"),
        ("masks/a.py", "def f():\n    from ..importance import y", "does not stand above masks"),
        ("store/a.py", "import networkx as nx", "belongs into ['graph']"),
        ("export/a.py", "import onnx", "import a runtime inside the function"),
        ("export/a.py", "class A:\n    from onnxruntime import InferenceSession", "import a runtime inside the function"),
        ("trainer/a.py", "def f():\n    import brevitas.nn", "belongs into ['export', 'quantizers']"),
        ("__init__.py", "from tsn_toolkit.store import x", "imports nothing"),
    ],
)
def test_a_wrong_import_is_found(file: str, source: str, message: str) -> None:
    found = problems(imports_of(PACKAGE / file, source))
    assert len(found) == 1
    assert message in found[0]


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("store/a.py", "from tsn_toolkit.store.b import x\nfrom .c import y\nfrom tsn_toolkit.errors import StoreError"),
        ("export/a.py", "def f():\n    import onnx"),
        ("export/run_onnxruntime.py", "import onnxruntime"),
        ("verify/a.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import onnxruntime"),
        ("graph/a.py", "import networkx"),
    ],
)
def test_a_right_import_is_let_through(file: str, source: str) -> None:
    assert problems(imports_of(PACKAGE / file, source)) == []


def test_every_library_is_declared() -> None:
    """What the package imports stands in pyproject.toml, so that an installed wheel runs."""
    tomllib = pytest.importorskip("tomllib", reason="tomllib came with Python 3.11")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = [*project["dependencies"], *(line for extra in EXTRAS for line in project["optional-dependencies"][extra])]
    names = {re.split(r"[<>=!~\[; ]", line)[0] for line in declared}
    brought = {module for name in names for module in IMPORT_NAMES.get(name, {name})}
    importable = (
        brought | set(sys.stdlib_module_names) | {"tsn_toolkit", "runner", "run_openvino", "run_torch_cuda"}
    )  # of export/, beside a program of its own
    undeclared = [
        str(item) for path in sources() for item in imports_of(path, path.read_text(encoding="utf-8")) if item.name.split(".")[0] not in importable
    ]
    assert undeclared == []
