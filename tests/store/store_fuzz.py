"""Reads damaged copies in child processes, and says what a reader made of them.

The copies are those of store_damage.py, what is read those of fuzz_subjects.py. Each case has an address-space limit of `memory_limit_bytes` and some
slack. In one of eight all that a reader may do is done; in one of 32 Python's and numpy's allocations are traced too, which is slow, and held against
the limit itself. A reader may refuse with an error that names what is damaged, or read another valid model. A traceback, a hang, a death of the
process, or more memory is a failure.
"""

import multiprocessing
import resource
import signal
import traceback
import tracemalloc
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

from store_damage import Case

from tsn_toolkit.errors import StoreError
from tsn_toolkit.store.layout import MAX_LENGTH, MAX_SLOTS

SLACK_BYTES = 32 << 20
SECONDS_PER_CASE = 20
SECONDS_TO_START = 60
THOROUGH_EVERY, TRACED_EVERY = 8, 32
BYTES_PER_FILE_BYTE, BYTES_PER_SLOT, CONSTANT_BYTES = 64, 36, 4 << 20
"""The first two as docs/store-format.md states them."""


def memory_limit_bytes(file_bytes: int, declared: int) -> int:
    """What reading may allocate at most: by the size of all files, and by the slots and entries that metadata declare, which have limits too."""
    return BYTES_PER_FILE_BYTE * file_bytes + BYTES_PER_SLOT * min(declared, 3 * MAX_SLOTS + 4 * MAX_LENGTH) + CONSTANT_BYTES


@dataclass
class Findings:
    """What readers made of many cases.

    Attributes:
        outcomes: `refused`, `model` (another valid one), `same` (the damage changed no byte), and failures by kind.
        failures: one line per failure.
        peak_bytes: the most that one case allocated.
        peak_share: the largest part of its limit that a case allocated.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    peak_bytes: int = 0
    peak_share: float = 0.0


@dataclass(frozen=True)
class Subject:
    """What is damaged and read.

    Attributes:
        pristine: its files.
        damage: the files of a case.
        read: reads the files from a folder that holds them, or (True) does all that a reader may do; StoreError refuses them.
        declared: `declared_size` of files.
        names: words of which an error about the files of a case must hold one.
    """

    pristine: dict[str, bytes]
    damage: Callable[[dict[str, bytes], Case], dict[str, bytes]]
    read: Callable[[Path, bool], None]
    declared: Callable[[dict[str, bytes]], int]
    names: Callable[[dict[str, bytes], Case], tuple[str, ...]]


def examine(subject: Subject, cases: Sequence[Case], folder: Path) -> Findings:
    """Runs cases in child processes; one that dies or hangs is a finding, and the next goes on behind it."""
    findings = Findings()
    context = multiprocessing.get_context("fork")
    done = 0
    while done < len(cases):
        receive, send = context.Pipe(duplex=False)
        child = context.Process(target=_run_cases, args=(subject, cases[done:], folder, send))
        child.start()
        send.close()
        try:
            while receive.poll(SECONDS_PER_CASE + SECONDS_TO_START):
                message = receive.recv()
                _count(findings, cases[done], *message)
                done += 1
        except EOFError:
            child.join(SECONDS_TO_START)
        child.kill()
        child.join()
        if done < len(cases):
            outcome = "hang" if child.exitcode in (-signal.SIGALRM, -signal.SIGKILL) else "death"
            _count(findings, cases[done], outcome, f"exit code {child.exitcode}", 0, 1)
            done += 1
    return findings


def _count(findings: Findings, case: Case, outcome: str, detail: str, peak_bytes: int, limit_bytes: int) -> None:
    if peak_bytes > limit_bytes:
        outcome, detail = "memory", f"{peak_bytes:,} bytes allocated, at most {limit_bytes:,} allowed, {outcome} {detail}"
    findings.outcomes[outcome] += 1
    findings.peak_bytes = max(findings.peak_bytes, peak_bytes)
    findings.peak_share = max(findings.peak_share, peak_bytes / limit_bytes)
    if outcome not in ("refused", "model", "same"):
        findings.failures.append(f"{outcome}: {case}: {detail}")


def _run_cases(subject: Subject, cases: Sequence[Case], folder: Path, send: Connection) -> None:
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    write_files(folder, subject.pristine)
    subject.read(folder, True)  # so that caches and imports of a first time count for no case
    most = resource.getrlimit(resource.RLIMIT_AS)[1]
    address_space = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    for case in cases:
        files = subject.damage(subject.pristine, case)
        changed = {path: data for path, data in files.items() if data != subject.pristine[path]}
        write_files(folder, changed)
        limit_bytes = memory_limit_bytes(sum(map(len, files.values())), subject.declared(files))
        resource.setrlimit(resource.RLIMIT_AS, (address_space + limit_bytes + SLACK_BYTES, most))
        signal.alarm(SECONDS_PER_CASE)
        outcome, detail, peak_bytes = _outcome(subject, folder, case.number, subject.names(files, case))
        signal.alarm(0)
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        if outcome == "model" and not changed:
            outcome = "same"
        elif outcome == "model" and not case.vouched:
            outcome, detail = "accepted", "a changed byte was not refused"
        send.send((outcome, detail, peak_bytes, limit_bytes))
        write_files(folder, {path: subject.pristine[path] for path in changed})
    send.close()


def _outcome(subject: Subject, folder: Path, number: int, names: tuple[str, ...]) -> tuple[str, str, int]:
    """What the reader did, the error's text, and the bytes that it allocated at most (0 where they are not traced)."""
    if number % TRACED_EVERY == 0:
        tracemalloc.start()
    try:
        subject.read(folder, number % THOROUGH_EVERY == 0)
        outcome, detail = "model", ""
    except StoreError as error:
        named = any(name in str(error) for name in names)
        outcome, detail = "memory" if isinstance(error.__cause__, MemoryError) else "refused" if named else "unnamed", str(error)
    except MemoryError:
        outcome, detail = "memory", traceback.format_exc()
    except BaseException:
        outcome, detail = "traceback", traceback.format_exc()
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return outcome, detail, peak_bytes


def write_files(folder: Path, files: dict[str, bytes]) -> None:
    """Writes the files of a store over those that are there."""
    for path, data in files.items():
        (folder / path).write_bytes(data)
