"""How a run talks to its caller."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tsn_toolkit.run_folder import RunFolder
from tsn_toolkit.trainer.loop import Progress

Say = Callable[[str], None]
"""Called with one line of news for the log and the user."""


@dataclass(frozen=True)
class Hooks:
    """How a run talks to its caller.

    Attributes:
        say: one line of news.
        progress: called while something trains.
    """

    say: Say
    progress: Progress | None = None


def logged(folder: RunFolder, hooks: Hooks) -> Hooks:
    def say(line: str) -> None:
        folder.log(line)
        hooks.say(line)

    return Hooks(say=say, progress=hooks.progress)
