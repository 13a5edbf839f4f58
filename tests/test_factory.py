"""Factory texts: parsing, calling, and an error for each way to be wrong."""

import pytest

from tsn_toolkit.errors import DataError, ModelError
from tsn_toolkit.factory import FactoryCall, call_factory, parse_factory


@pytest.fixture
def net_file(tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(
        "import dataclasses\n"
        "@dataclasses.dataclass\n"
        "class Box:\n    size: int\n"
        "def make(size, *, flag=False):\n    return Box(size), flag\n"
        "def fail():\n    raise ZeroDivisionError('inside')\n"
        "LIMIT = 3\n"
    )
    return tmp_path / "net.py"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.b:make", FactoryCall("a.b", "make")),
        ("a:make()", FactoryCall("a", "make")),
        ("dir/net.py:make(3, name='x:y(z)', dims=[1, -2])", FactoryCall("dir/net.py", "make", (3,), {"name": "x:y(z)", "dims": [1, -2]})),
    ],
)
def test_parse(text: str, expected: FactoryCall) -> None:
    assert parse_factory(text) == expected


@pytest.mark.parametrize(
    "text", ["make", "a.b:", ":make", "a b:make", "a:make(", "a:make(1)(2)", "a:make(**{'x': 1})", "a:make(x=1, x=2)", "a:1make"]
)
def test_malformed_text_is_refused_with_the_text(text: str) -> None:
    with pytest.raises(ModelError) as caught:
        parse_factory(text)
    assert repr(text) in str(caught.value)
    assert "package.module:factory" in str(caught.value)


@pytest.mark.parametrize("argument", ["__import__('os').getcwd()", "depth=open('x')", "n", "2 ** 9", "*[1]", "f'{1}'"])
def test_only_literals_are_arguments(argument: str) -> None:
    with pytest.raises(ModelError, match="not a literal"):
        parse_factory(f"a:make({argument})")


def test_call_of_a_module() -> None:
    assert call_factory("fractions:Fraction(3, denominator=6)") * 2 == 1


def test_call_of_a_file(net_file, monkeypatch: pytest.MonkeyPatch) -> None:
    box, flag = call_factory("net.py:make(7, flag=True)")
    assert (box.size, flag) == (7, True)
    assert call_factory(f"{net_file}:make(size=2)")[0].size == 2
    monkeypatch.setenv("NET_FOLDER", str(net_file.parent))
    assert call_factory("${NET_FOLDER}/net.py:make(3)")[0].size == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no_such_module_xyz:make", "'no_such_module_xyz' not found"),
        ("fractions.deeper:make", "fractions.deeper"),
        ("missing.py:make", "missing.py does not exist"),
        ("net.py:mak", r"no 'mak' \(did you mean 'make'\?\)"),
        ("net.py:LIMIT", "LIMIT is a int, not a callable"),
        ("net.py:make(1, 2)", r"too many positional.*signature is make\(size, \*, flag=False\)"),
        ("net.py:make(depth=20)", r"depth=20.*signature is make\(size"),
    ],
)
def test_errors_name_what_is_wrong(net_file, text: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        call_factory(text)
    with pytest.raises(DataError, match=message):
        call_factory(text, error=DataError)


def test_a_missing_import_inside_the_module_is_named(net_file) -> None:
    net_file.with_name("broken.py").write_text("def make(:\n")
    with pytest.raises(ModelError, match="broken.py is not valid Python"):
        call_factory("broken.py:make")


def test_an_exception_inside_the_factory_is_named_with_its_line(net_file) -> None:
    with pytest.raises(
        ModelError, match=r"factory 'net.py:fail' raised ZeroDivisionError \(inside\) at .*net.py:8, `raise Zero.*tsn --debug"
    ) as caught:
        call_factory("net.py:fail")
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    net_file.with_name("deep.py").write_text("import json\ndef make():\n    return json.loads('{')\n")
    with pytest.raises(DataError, match=r"raised JSONDecodeError .* at .*deep.py:3, `return json.loads"):
        call_factory("deep.py:make", error=DataError)


def test_an_exception_while_the_module_is_loaded_is_named_with_its_line(net_file, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(net_file.parent)
    net_file.with_name("early_mistake.py").write_text("LIMIT = 3\nimport no_such_package_xyz\n")
    with pytest.raises(ModelError, match=r"early_mistake.py raised ModuleNotFoundError .*no_such_package_xyz.* at .*early_mistake.py:2"):
        call_factory("early_mistake.py:make")
    net_file.with_name("early_mistake.py").write_text("LIMIT = 3 / 0\n")
    with pytest.raises(ModelError, match=r"module 'early_mistake' raised ZeroDivisionError .* at .*early_mistake.py:1"):
        call_factory("early_mistake:make")


def test_an_error_that_a_user_can_mend_passes_through() -> None:
    with pytest.raises(ModelError, match="^`widths` of mlp names the inputs"):
        call_factory("tsn_toolkit.models.mlp:mlp(widths=[3])", error=DataError)
