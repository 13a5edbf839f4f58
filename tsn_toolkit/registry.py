"""Names that are file names: plug-ins of a package folder and YAML files of a data folder.

A registry is a package folder: every public `.py` file in it is one entry, and the entry's name is the file's stem. Listing reads file names and
imports nothing. In a name `-` may stand for `_`, so that `cifar-binary` finds `cifar_binary.py`.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

from tsn_toolkit.errors import RecipeError, TsnError

PACKAGE_FOLDER = Path(__file__).resolve().parent
DATA_KINDS = ("recipes", "hw_targets")


def names(package: str) -> tuple[str, ...]:
    """Names of the entries of a registry, sorted, without importing anything.

    Args:
        package: dotted name below this package, for example `tsn_toolkit.strategies`.

    Returns:
        Stems of the package folder's `.py` files that do not start with an underscore.

    >>> "registry" in names("tsn_toolkit")
    True
    """
    root, *parts = package.split(".")
    assert root == PACKAGE_FOLDER.name, f"registries live below {PACKAGE_FOLDER.name}, got {package}"
    folder = PACKAGE_FOLDER.joinpath(*parts)
    return tuple(sorted(path.stem for path in folder.glob("*.py") if not path.stem.startswith("_")))


def load(package: str, name: str, *, error: type[TsnError] = RecipeError) -> ModuleType:
    """Import one entry of a registry.

    Args:
        package: dotted name, as for `names`.
        name: entry name; `-` may stand for `_`.
        error: exception class raised for an unknown name.

    Raises:
        TsnError: of class `error`, when `package` has no such entry; lists the known names and the nearest.
    """
    stem = name.replace("-", "_")
    known = names(package)
    if stem not in known:
        kind = package.rsplit(".", 1)[-1]
        raise error(f"{kind} has no entry {name!r}{did_you_mean(name, known)}; known: {', '.join(known) or 'none'}. Use one of these names.")
    return importlib.import_module(f"{package}.{stem}")


def nearest(word: str, words: Iterable[str]) -> str:
    """The word of `words` that begins with `word`, else the one most like it, or "" when none is near.

    >>> nearest("epoch", ["epochs", "momentum"])
    'epochs'
    >>> nearest("cpu_onnx", ["cpu_openvino", "cpu_onnxruntime"])
    'cpu_onnxruntime'
    >>> nearest("zzz", ["epochs", "momentum"])
    ''
    """
    words = list(words)
    matches = [other for other in words if len(word) > 2 and other.startswith(word)] or difflib.get_close_matches(word, words, n=1, cutoff=0.6)
    return matches[0] if matches else ""


def did_you_mean(word: str, words: Iterable[str]) -> str:
    """` (did you mean 'x'?)` for the nearest word, or "" when none is near.

    >>> did_you_mean("epoch", ["epochs", "momentum"])
    " (did you mean 'epochs'?)"
    """
    found = nearest(word, words)
    return f" (did you mean {found!r}?)" if found else ""


def data_folders(kind: str) -> tuple[Path, ...]:
    """Folders where files of a kind are looked up, in order: the working folder's own, then the package's.

    The package's own folder is `_data/<kind>` beside this file in an installed wheel and `<repo>/<kind>` in a checkout.

    Args:
        kind: `recipes` or `hw_targets`.

    Returns:
        The folders that exist, each once.
    """
    assert kind in DATA_KINDS, f"unknown kind of data file: {kind}"
    installed = PACKAGE_FOLDER / "_data" / kind
    own = installed if installed.is_dir() else PACKAGE_FOLDER.parent / kind
    folders = [folder.resolve() for folder in (Path.cwd() / kind, own) if folder.is_dir()]
    return tuple(dict.fromkeys(folders))
