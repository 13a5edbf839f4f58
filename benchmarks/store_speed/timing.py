"""Times and ratios: the things compared take turns within one run, so that whatever else the machine does hits all of them alike."""

from __future__ import annotations

import os
import struct
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

_SECONDS = struct.Struct("d")


@dataclass(frozen=True)
class Action:
    """Something to time: `run(prepare())`, of which only `run` counts."""

    run: Callable[[Any], object]
    prepare: Callable[[], object] = lambda: None


def take_turns(actions: dict[str, Action], turns: int, *, before: Callable[[], object] = lambda: None, fresh: bool = False) -> dict[str, list[float]]:
    """Seconds of each action in each turn.

    Args:
        actions: what takes turns.
        turns: how often each comes.
        before: runs before every action, untimed.
        fresh: run each action in a child process where the system can fork. Memory then comes fresh from the system each time, as on a first load,
            and not from what the action before has left behind.
    """
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(turns):
        for name, action in actions.items():
            before()
            seconds[name].append(_in_child(action) if fresh and hasattr(os, "fork") else _time(action))
    return seconds


def _time(action: Action) -> float:
    given = action.prepare()
    start = time.perf_counter()
    kept = action.run(given)
    seconds = time.perf_counter() - start
    del kept
    return seconds


def _in_child(action: Action) -> float:
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(writer, _SECONDS.pack(_time(action)))
        except Exception:
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    if len(answer) != _SECONDS.size:
        raise RuntimeError("a timed action failed in its process; its message stands above")
    return float(_SECONDS.unpack(answer)[0])


def milliseconds(seconds: Sequence[float]) -> dict[str, float]:
    """Median and quartiles in milliseconds."""
    q1, median, q3 = np.percentile(np.array(seconds) * 1000, [25, 50, 75])
    return {"median": round(float(median), 3), "q1": round(float(q1), 3), "q3": round(float(q3), 3)}


def ratio(seconds: Sequence[float], reference: Sequence[float]) -> float:
    """Median over the turns of one turn's time over the reference's time in the same turn."""
    return round(float(np.median(np.array(seconds) / np.array(reference))), 3)


def files_of(path: Path) -> list[Path]:
    """The file itself, or all files below a folder."""
    return [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())


def drop_from_page_cache(paths: Sequence[Path]) -> bool:
    """Asks the system to forget the files' pages; False where it cannot be asked or keeps them."""
    if not hasattr(os, "posix_fadvise") or not hasattr(os, "preadv"):
        return False
    gone = True
    for path in (file for entry in paths for file in files_of(entry)):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            gone &= not _is_cached(handle)
        finally:
            os.close(handle)
    return gone


def _is_cached(handle: int) -> bool:
    try:
        return bool(os.preadv(handle, [bytearray(1)], 0, os.RWF_NOWAIT))
    except BlockingIOError:
        return False
