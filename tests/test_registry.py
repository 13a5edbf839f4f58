"""Names are file names; listing imports nothing; an unknown name lists the known ones."""

import sys

import pytest

from tsn_toolkit import registry
from tsn_toolkit.errors import DataError, RecipeError

SOURCES = "tsn_toolkit.data.sources"


def test_names_are_the_public_files_of_the_folder() -> None:
    folder = registry.PACKAGE_FOLDER / "data" / "sources"
    expected = sorted(path.name[:-3] for path in folder.iterdir() if path.name.endswith(".py") and path.name != "__init__.py")
    assert list(registry.names(SOURCES)) == expected
    assert {"digits", "idx", "cifar_binary", "npz", "factory"} <= set(expected)


def test_listing_imports_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in sys.modules if name.startswith(SOURCES)]:
        monkeypatch.delitem(sys.modules, module)
    registry.names(SOURCES)
    assert not [name for name in sys.modules if name.startswith(SOURCES)]


def test_load_accepts_a_hyphen() -> None:
    assert registry.load(SOURCES, "cifar-binary").__name__ == f"{SOURCES}.cifar_binary"


def test_unknown_name_lists_known_and_nearest() -> None:
    with pytest.raises(RecipeError, match=r"no entry 'digit' \(did you mean 'digits'\?\); known: .*cifar_binary.*npz"):
        registry.load(SOURCES, "digit")
    with pytest.raises(DataError, match="no entry 'zzzz'; known"):
        registry.load(SOURCES, "zzzz", error=DataError)


def test_data_folders_look_in_the_working_folder_first(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "recipes").mkdir()
    monkeypatch.chdir(tmp_path)
    folders = registry.data_folders("recipes")
    assert folders[0] == (tmp_path / "recipes").resolve()
    assert (folders[1] / "digits.yaml").is_file()
