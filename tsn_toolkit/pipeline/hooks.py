"""How a run talks to its caller."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from tsn_toolkit.files import write_json
from tsn_toolkit.run_folder import RunFolder
from tsn_toolkit.trainer.loop import Progress
from tsn_toolkit.verify.measure import measure_in_fresh_process

Say = Callable[[str], None]
"""Called with one line of news for the log and the user."""


Keep = Callable[[str, str, Any], None]
"""Called with a task, a name and JSON values for the task's record."""


@dataclass(frozen=True)
class Hooks:
    """How a run talks to its caller.

    Attributes:
        say: one line of news.
        progress: called while something trains.
        keep: values for a task's record; None where there is no run to keep them in.
        measure: makes one row of R from a store's folder, in a process that has nothing else; called like `measure_in_fresh_process`.
    """

    say: Say
    progress: Progress | None = None
    keep: Keep | None = None
    measure: Callable[..., dict[str, Any]] = measure_in_fresh_process


def logged(folder: RunFolder, hooks: Hooks) -> Hooks:
    """The same hooks, whose news also go to the run's log, and values to files beside the task's record."""

    def keep(task: str, name: str, values: Any) -> None:
        write_json(folder.kept(task, name), values)

    def say(line: str) -> None:
        folder.log(line)
        hooks.say(line)

    return replace(hooks, say=say, keep=keep)
