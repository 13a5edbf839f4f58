"""A run's folder: what stands where, and what is done already."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tsn_toolkit.errors import RunError
from tsn_toolkit.files import append_text, read_json, write_text

RECIPE_FILE = "recipe.resolved.yaml"
RECORD_KEYS = ("name", "accuracy", "bytes", "macs", "latency_ms", "R_row", "parity", "warnings")
"""What every task's record has."""


@dataclass(frozen=True)
class RunFolder:
    """Paths of one run.

    Attributes:
        path: the folder itself.
    """

    path: Path

    @property
    def recipe(self) -> Path:
        """The recipe with every default, as it is run."""
        return self.path / RECIPE_FILE

    @property
    def plan(self) -> Path:
        """The compression plan, which a user may edit and run again."""
        return self.path / "plan.yaml"

    @property
    def graph(self) -> Path:
        """The picture of the model's graph."""
        return self.path / "graph.svg"

    @property
    def store(self) -> Path:
        """The store."""
        return self.path / "store"

    @property
    def summary(self) -> Path:
        """The numbers of the run."""
        return self.path / "summary.json"

    @property
    def report(self) -> Path:
        """The page that shows them."""
        return self.path / "report.html"

    def package(self, task: str, target: str) -> Path:
        """One task exported for one target."""
        return self.path / "packages" / task / target

    def reference(self, task: str) -> Path:
        """The dense fp32 network of one task, as a safetensors file."""
        return self.path / "references" / f"{task}.safetensors"

    def record(self, task: str) -> Path:
        """What was measured of one task, so that a resumed run need not measure again."""
        return self.path / "records" / f"{task}.json"

    def read_record(self, task: str) -> dict[str, Any]:
        """A task's record.

        Raises:
            RunError: it is damaged.
        """
        return self._read(self.record(task), RECORD_KEYS, "Remove it; `tsn resume` measures the task again.")

    def read_summary(self) -> dict[str, Any]:
        """The numbers of the run.

        Raises:
            RunError: they are damaged.
        """
        return self._read(self.summary, ("tasks", "store_bytes"), "`tsn resume` writes it anew.")

    def _read(self, path: Path, keys: tuple[str, ...], what_to_do: str) -> dict[str, Any]:
        try:
            content = read_json(path)
        except (UnicodeDecodeError, json.JSONDecodeError) as problem:
            raise RunError(f"{path} is damaged: no JSON ({problem}). {what_to_do}") from problem
        missing = [key for key in keys if not isinstance(content, dict) or key not in content]
        if missing:
            raise RunError(f"{path} is damaged: it has no `{missing[0]}`. {what_to_do}")
        return dict(content)

    def kept(self, task: str, name: str) -> Path:
        """What one stage found out while the task was learned; the task's record takes it in."""
        return self.path / "records" / f"{task}.{name}.json"

    def log(self, line: str) -> None:
        """Adds a line to `log.txt`."""
        append_text(self.path / "log.txt", line.rstrip("\n") + "\n")

    def require_store(self) -> None:
        """Refuses a run whose tasks were measured and whose store is gone: what is left of it would be taken for the new one's.

        Raises:
            RunError: so it is.
        """
        if (self.path / "records").is_dir() and not (self.store / "manifest.json").exists():
            raise RunError(f"{self.path} holds the records of a run without its store. Put `{self.store}` back, or name another folder with --out.")


def create_run_folder(path: Path, recipe_text: str) -> RunFolder:
    """Makes a new run's folder and keeps the resolved recipe in it.

    The folder of a run that stopped before it had a store, say at a mistake in its recipe, is used again.

    Raises:
        RunError: the folder holds a run with a store, or what is left of one, or anything else, already.
    """
    folder = RunFolder(path)
    if folder.recipe.exists() and (folder.store / "manifest.json").exists():
        raise RunError(f"{path} already holds a run. Continue it with `tsn resume {path}`, or name another folder with --out.")
    if path.exists() and not folder.recipe.exists() and (not path.is_dir() or any(path.iterdir())):
        raise RunError(f"{path} exists and is not an empty folder. Name a new folder with --out.")
    folder.require_store()
    write_text(folder.recipe, recipe_text)
    return folder


def open_run_folder(path: Path) -> RunFolder:
    """An existing run's folder.

    Raises:
        RunError: there is no run, or its store is gone.
    """
    folder = RunFolder(path)
    if not folder.recipe.is_file():
        raise RunError(f"{path} holds no run: {RECIPE_FILE} is missing. Name the folder that `tsn run` wrote.")
    folder.require_store()
    return folder
