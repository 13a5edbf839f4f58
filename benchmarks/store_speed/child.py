"""What only a process of its own can tell: the peak memory of materialising a task, and the files that it reads.

    python benchmarks/store_speed/child.py memory STORE TASK SMALL_STORE
    python benchmarks/store_speed/child.py files STORE TASK

Prints one JSON object.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from pathlib import Path

from tsn_toolkit.store.store import Store


def peak_bytes() -> int:
    """Largest resident size so far; Linux can forget earlier peaks (see `forget_peak`), other systems cannot."""
    status = Path("/proc/self/status")
    if status.is_file():
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(fields["VmHWM"].split()[0]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def forget_peak() -> None:
    """Lets the peak start anew from the present resident size, where the system can."""
    switch = Path("/proc/self/clear_refs")
    if switch.exists():
        switch.write_text("5")


def memory(store: str, task: str, small_store: str) -> dict[str, int]:
    """Bytes by which opening a store and materialising a task raises the process's peak.

    The newest task of a small store comes first and is counted apart: the pages of code and tables that a process needs once, whatever it loads.
    """
    once = _raised_by(small_store, Store.open(small_store, check=False).entries[-1].name)
    loading = _raised_by(store, task)
    return {**loading, "once_bytes": once["peak_bytes"]}


def _raised_by(store: str, task: str) -> dict[str, int]:
    forget_peak()
    before = peak_bytes()
    weights = Store.open(store).dense_weights(task)
    return {"peak_bytes": peak_bytes() - before, "dense_bytes": sum(array.nbytes for array in weights.values())}


def files(store: str, task: str) -> dict[str, dict[str, int]]:
    """Files of the store opened, and their sizes, by opening the store and by materialising a task of it."""
    phase = ""
    opened: dict[str, list[str]] = {"open": [], "materialise": []}
    root = os.path.realpath(store)

    def note(event: str, arguments: tuple[object, ...]) -> None:
        if event == "open" and phase and isinstance(arguments[0], (str, bytes, os.PathLike)):
            path = os.path.realpath(os.fsdecode(arguments[0]))
            if path.startswith(root + os.sep) and os.path.isfile(path):
                opened[phase].append(path)

    sys.addaudithook(note)
    phase = "open"
    handle = Store.open(store)
    phase = "materialise"
    handle.dense_weights(task)
    phase = ""
    return {name: {"files": len(set(paths)), "bytes": sum(os.path.getsize(path) for path in set(paths))} for name, paths in opened.items()}


if __name__ == "__main__":
    what, *given = sys.argv[1:]
    print(json.dumps(memory(*given) if what == "memory" else files(*given)))
