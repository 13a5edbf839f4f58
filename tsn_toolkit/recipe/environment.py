"""`${NAME}` in the paths of a recipe. The recipe keeps the text as written, so that it holds no path of one machine; whoever opens a file expands."""

from __future__ import annotations

import os
import re

from tsn_toolkit.errors import RecipeError

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


def unset_variables(text: str) -> tuple[str, ...]:
    """Names of the variables in `text` that are unset or empty, each once, in order."""
    return tuple(dict.fromkeys(name for name in _VARIABLE.findall(text) if not os.environ.get(name)))


def expand(text: str) -> str:
    """Replace every `${NAME}` by the environment variable's value.

    Args:
        text: a path or factory text of a recipe.

    Raises:
        RecipeError: a variable is unset or empty; names the variable and the text.
    """
    missing = unset_variables(text)
    if missing:
        raise RecipeError(f"environment variable {missing[0]} is not set, and {text!r} needs it. Set it: export {missing[0]}=FOLDER.")
    return _VARIABLE.sub(lambda match: os.environ[match.group(1)], text)
