"""`${NAME}` and `~` in the paths of a recipe. The recipe keeps the text as written; whoever opens a file expands. Stores keep no machine's paths."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath, PureWindowsPath

from tsn_toolkit.errors import RecipeError

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


def unset_variables(text: str) -> tuple[str, ...]:
    """Names of the variables in `text` that are unset or empty, each once, in order."""
    return tuple(dict.fromkeys(name for name in _VARIABLE.findall(text) if not os.environ.get(name)))


def expand(text: str) -> str:
    """Replace every `${NAME}` by the environment variable's value, and `~` at the start by the home folder.

    Args:
        text: a path or factory text of a recipe.

    Raises:
        RecipeError: a variable is unset or empty; names the variable and the text.
    """
    missing = unset_variables(text)
    if missing:
        raise RecipeError(f"environment variable {missing[0]} is not set, and {text!r} needs it. Set it: export {missing[0]}=FOLDER.")
    return os.path.expanduser(_VARIABLE.sub(lambda match: os.environ[match.group(1)], text))


def is_machine_path(text: str) -> bool:
    """True for a path that holds on one machine only: absolute, or below a home folder."""
    return PurePosixPath(text).is_absolute() or PureWindowsPath(text).is_absolute() or text.startswith("~")


def portable(text: str | None, variable: str) -> str | None:
    """The text that a store keeps of a path: `${variable}` in place of a path of one machine, any other as it is.

    >>> portable("/home/me/data", "TSN_DATA_PATH"), portable("data", "TSN_DATA_PATH")
    ('${TSN_DATA_PATH}', 'data')
    """
    return f"${{{variable}}}" if text is not None and is_machine_path(text) else text


def working_path(path: Path) -> str:
    """A path as seen from the working folder: never absolute, so that a store may keep it."""
    return Path(os.path.relpath(path)).as_posix()
