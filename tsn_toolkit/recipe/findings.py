"""What a check of a recipe reports, and the checks that several sections need."""

from __future__ import annotations

from collections.abc import Iterator

from tsn_toolkit.errors import TsnError
from tsn_toolkit.factory import parse_factory
from tsn_toolkit.recipe.environment import unset_variables
from tsn_toolkit.recipe.yaml_document import KeyPath

Finding = tuple[KeyPath, str]
"""Where, and one sentence: what is wrong, the rule, what to do."""


def check_factory(key: KeyPath, text: str) -> Iterator[Finding]:
    """A factory text must be one, and the variables of its file be set."""
    try:
        call = parse_factory(text)
    except TsnError as problem:
        yield key, str(problem)
        return
    if call.is_file:
        yield from check_path(key, call.module)


def check_path(key: KeyPath, text: str) -> Iterator[Finding]:
    """The variables of a path must be set."""
    for name in unset_variables(text):
        yield key, f"needs the environment variable {name}, which is not set, got {text!r}. Set it: export {name}=FOLDER."
