"""Measuring a store in processes that know nothing of the run, without paying for the start of Python each time.

Before a run begins, a server is forked that has imported the program and has seen no data, no network and no store. For every measurement it forks a
process that is given the path of a store's folder, does what `tsn verify --measure` does, and ends.
"""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any

from tsn_toolkit.errors import StoreError, TsnError
from tsn_toolkit.verify.measure import measure_store

IMPORTED_WHEN_USED = ("torch.export._trace", "torch_pruning", "brevitas.graph.quantize")
"""Modules that learning and measuring would otherwise import in every process."""

FORK = multiprocessing.get_context("fork")


class FreshProcesses:
    """The server, for as long as it is entered; `measure` stands in for `measure_in_fresh_process`."""

    def __enter__(self) -> FreshProcesses:
        for name in IMPORTED_WHEN_USED:
            importlib.import_module(name)
        self._ours, theirs = FORK.Pipe()
        self._server = FORK.Process(target=_serve, args=(theirs,))
        self._server.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ours.send(None)
        self._server.join()

    def measure(self, path: Path, *, data_paths: Mapping[str, str] | None = None) -> dict[str, Any]:
        """One row of R from the folder alone.

        Args:
            path: the store's folder.
            data_paths: environment variable -> path; the store itself keeps no path of a machine.

        Raises:
            StoreError: the process failed; its message is passed on.
        """
        self._ours.send((str(path), dict(data_paths or {})))
        answer: dict[str, Any] = json.loads(self._ours.recv())
        if "error" in answer:
            raise StoreError(f"measuring {path} in a fresh process failed: {answer['error']}")
        return answer


def _serve(requests: Connection) -> None:
    """Forks one process per request until it is told to end."""
    while (request := requests.recv()) is not None:
        answers, mine = FORK.Pipe(duplex=False)
        process = FORK.Process(target=_answer, args=(mine, *request))
        process.start()
        mine.close()
        try:
            requests.send(answers.recv())
        except EOFError:
            process.join()
            requests.send(json.dumps({"error": f"the process ended with exit code {process.exitcode}"}))
        process.join()


def _answer(answers: Connection, path: str, data_paths: dict[str, str]) -> None:
    os.environ.update(data_paths)
    try:
        text = json.dumps(measure_store(Path(path)))
    except TsnError as problem:
        text = json.dumps({"error": str(problem)})
    answers.send(text)
