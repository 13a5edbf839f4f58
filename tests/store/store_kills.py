"""Kills a process at random instants while it writes commits and retirements, and checks what it leaves.

The clock starts when the bytes of a commit are encoded, or when a retirement begins, and a kill falls somewhere in the time that such a write takes.
"""

import multiprocessing
import os
import random
import signal
import statistics
import time
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import mixed_store

from tsn_toolkit.store import store as store_module
from tsn_toolkit.store.prepare import Prepared
from tsn_toolkit.store.retire import retire_task
from tsn_toolkit.store.store import Store

ACTIONS = [("commit", "x"), ("commit", "y"), ("retire", "x"), ("commit", "z"), ("retire", "z"), ("retire", "y")] * 50
WRITING = "writing"
LONGEST = 1.1
"""Latest instant of a kill, in median times of a write."""


def kill_rounds(folder: Path, rounds: int, *, seed: int = 0) -> Counter[str]:
    """Kills a writer of a fresh store again and again.

    After each kill the store must hold exactly what the acknowledged actions left, or that and the one action that was under way; every part that was
    there before must be as it was and, in the end, decode to the same integers; and the next commit must work.

    Args:
        folder: does not exist yet.
        rounds: number of kills.
        seed: of the instants.

    Returns:
        `kills`, `actions` acknowledged, kills inside a commit or a retirement that left `a part of an action` behind (a file that the manifest does
        not name).
    """
    mixed_store.make_mixed_store(folder)
    known = _parts(folder)
    hashes = _hashes(folder)
    draw = random.Random(seed)
    counts: Counter[str] = Counter()
    seconds: list[float] = []
    context = multiprocessing.get_context("fork")
    for _ in range(rounds):
        receive, send = context.Pipe(duplex=False)
        child = context.Process(target=_act, args=(folder, send))
        child.start()
        send.close()
        assert receive.recv() == "ready"
        skipped = draw.randint(1, 6)
        seconds += [_write_seconds(receive) for _ in range(skipped)]
        assert receive.recv() == WRITING
        time.sleep(draw.uniform(0, LONGEST * statistics.median(seconds)))
        os.kill(child.pid or 0, signal.SIGKILL)
        child.join()
        done = skipped + _drain(receive)
        store = Store.open(folder)
        held = {entry.name for entry in store.entries} - set(hashes)
        assert held in (_state(done), _state(done + 1)), f"{held} after {done} actions"
        assert {path: data for path, data in _parts(folder).items() if path in known} == known
        named = {entry.path for entry in store.entries}
        left = [path for path in (folder / "tasks").iterdir() if f"tasks/{path.name}" not in named] + list(folder.glob(".incoming"))
        counts.update(kills=1, actions=done, **{"a part of an action": bool(left)})
        _tidy(folder, held)
    assert _hashes(folder) == hashes
    return counts


def _act(folder: Path, send: Connection) -> None:
    store = Store.open(folder)
    results = {name: mixed_store.mixed_task(store, name, parent="c") for _, name in ACTIONS[:6]}
    prepare = store_module.prepare

    def prepare_and_say_so(*arguments: Any) -> Prepared:
        prepared = prepare(*arguments)
        send.send(WRITING)
        return prepared

    store_module.prepare = prepare_and_say_so  # in this process alone
    send.send("ready")
    for action, name in ACTIONS:
        if action == "commit":
            Store.open(folder).commit(results[name], {})
        else:
            send.send(WRITING)
            retire_task(folder, name)
        send.send(name)
    time.sleep(60)


def _write_seconds(receive: Connection) -> float:
    """Waits for one whole action: how long its writing took."""
    assert receive.recv() == WRITING
    start = time.monotonic()
    assert receive.recv() != WRITING
    return time.monotonic() - start


def _drain(receive: Connection) -> int:
    done = 0
    try:
        while True:
            done += receive.recv() != WRITING
    except EOFError:
        return done


def _state(actions: int) -> set[str]:
    """Names that the first `actions` actions leave."""
    held: set[str] = set()
    for action, name in ACTIONS[:actions]:
        held = held | {name} if action == "commit" else held - {name}
    return held


def _tidy(folder: Path, held: set[str]) -> None:
    """The next commit works, whatever the kill left, and then nothing that no one names is there."""
    store = Store.open(folder)
    store.commit(mixed_store.mixed_task(store, "next"), {})
    named = {entry.path for entry in store.entries}
    assert {f"tasks/{path.name}" for path in (folder / "tasks").iterdir()} == named
    for name in sorted(held | {"next"}):
        assert store.codes_hash(name)
        retire_task(folder, name)


def _parts(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*.safetensors"))}


def _hashes(folder: Path) -> dict[str, str]:
    store = Store.open(folder)
    return {entry.name: store.codes_hash(entry.name) for entry in store.entries}
