"""Damages stores and packed files and kills writers: python benchmarks/fuzz_store.py [--count 20000] [--kills 200] [--jobs 2] [--out FILE].

For each kind of damage (flip, cut, swap, graft), plain and with every hash computed again, COUNT damaged copies of a store and COUNT of a packed file
are read in child processes with an address-space limit. The stores are small, so that a case is quick: two lineages on a trained checkpoint, seven on
a seed, one of edge cases and two with free parameters, which together hold every encoding and every form of masks (`mixed_store.SMALL_STORES`). They
and their files are taken in turn. A reader may refuse with an error that names what is damaged, or (hashes computed again) read another valid model;
all else is a failure. Then KILLS writers are killed while they write commits and retirements. Prints a table, writes it as JSON, and ends with 1 when
anything failed.

Cases and checks are those of tests/store: store_damage.py, store_fuzz.py, fuzz_subjects.py and store_kills.py.
"""

from __future__ import annotations

import functools
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import click

TESTS = Path(__file__).resolve().parents[1] / "tests" / "store"
sys.path.insert(0, str(TESTS))

import mixed_store  # noqa: E402 - the tests' own folder, not a package
from fuzz_subjects import image_subject, store_subject  # noqa: E402
from store_damage import KINDS, Case  # noqa: E402
from store_fuzz import Findings, Subject, examine  # noqa: E402
from store_kills import kill_rounds  # noqa: E402

from tsn_toolkit.pipeline.summary import versions  # noqa: E402
from tsn_toolkit.store.packing import pack_store  # noqa: E402

RESULT = Path(__file__).parent / "results" / "fuzz_store.json"
MEMORY = Path("/dev/shm")
"""Damaged copies are written here where it is there: opening a file for writing takes longer on a disk than reading a small store."""
CHUNK = 2500
"""Cases of one child process, a whole number of rounds through the stores."""
FAILURES_SHOWN = 5
GOOD = ("refused", "model", "same")

Work = tuple[str, str, bool, int, int]
"""`store` or `packed`, kind, vouched, first and last number."""


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--count", default=20_000, help="Damaged copies per kind, with and without hashes, of a store and of a packed file.")
@click.option("--kills", default=200, help="Writers that are killed.")
@click.option("--jobs", default=os.cpu_count() or 1, help="Processes at a time.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULT, help="JSON file to write; default: results/fuzz_store.json beside this file.")
def main(count: int, kills: int, jobs: int, out: Path) -> None:
    """Damage stores by the thousand and kill their writers."""
    print("what     damage  hashes      cases  refused   model   same  failed  peak kB  of limit      s")
    rows = []
    pool_of = functools.partial(ProcessPoolExecutor, jobs, mp_context=multiprocessing.get_context("fork"))
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as temporary, pool_of() as pool:
        for what in ("store", "packed"):
            for kind in KINDS:
                for vouched in (False, True):
                    started = time.monotonic()
                    work = list(chunks(what, kind, vouched, count))
                    findings = merged(pool.map(run_chunk, [temporary] * len(work), work))
                    rows.append(row(what, kind, vouched, findings, time.monotonic() - started))
                    print(line(rows[-1]), flush=True)
                    save(out, {"count": count, "rows": rows})
    killed = killed_writers(kills)
    save(out, {"count": count, "rows": rows, "kills": killed})
    sys.exit(any(entry["failures"] for entry in rows))


def save(out: Path, result: dict[str, Any]) -> None:
    """Writes what is known so far."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({**result, "versions": versions()}, indent=1) + "\n", encoding="utf-8")


def killed_writers(kills: int) -> dict[str, Any]:
    """Kills writers on the disk that temporary files lie on."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        counts = kill_rounds(Path(temporary) / "kills", kills) if kills else Counter()
    left = counts["a part of an action"]
    print(f"kills: {counts['kills']}, {counts['actions']} commits and retirements acknowledged, {left} kills left a file that nobody names")
    return {**counts, "seconds": round(time.monotonic() - started, 1)}


def chunks(what: str, kind: str, vouched: bool, count: int) -> Iterator[Work]:
    """Work for one process at a time."""
    for start in range(0, count, CHUNK):
        yield what, kind, vouched, start, min(start + CHUNK, count)


def run_chunk(temporary: str, work: Work) -> Findings:
    """Examines cases of one store after the other."""
    what, kind, vouched, start, stop = work
    found = []
    places = subjects(Path(temporary) / f"{os.getpid()}", what)
    for turn, (folder, subject) in enumerate(places):
        files = sorted(subject.pristine)
        numbers = [number for number in range(start, stop) if number % len(places) == turn]
        cases = [Case(files[number // len(places) % len(files)], kind, vouched, number) for number in numbers]
        found.append(examine(subject, cases, folder))
    return merged(found)


@functools.cache
def subjects(folder: Path, what: str) -> list[tuple[Path, Subject]]:
    """The small stores, or their packed files, in a folder of this process, each with the folder that it is read from."""
    stores = mixed_store.make_small_stores(folder / what)
    if what == "store":
        return [(store.path, store_subject(store.path)) for store in stores.values()]
    packed = []
    for name, store in stores.items():
        file = folder / f"{name}.tsn"
        pack_store(store, file)
        packed.append((folder, image_subject(file)))
    return packed


def merged(parts: Iterable[Findings]) -> Findings:
    """Findings of all chunks together."""
    total = Findings()
    for part in parts:
        total.outcomes.update(part.outcomes)
        total.failures += part.failures
        total.peak_bytes = max(total.peak_bytes, part.peak_bytes)
        total.peak_share = max(total.peak_share, part.peak_share)
    return total


def row(what: str, kind: str, vouched: bool, findings: Findings, seconds: float) -> dict[str, Any]:
    """One line of the table as it goes into the JSON."""
    return {
        "what": what,
        "damage": kind,
        "hashes": "computed" if vouched else "plain",
        "cases": sum(findings.outcomes.values()),
        **{outcome: findings.outcomes[outcome] for outcome in GOOD},
        "failed": {outcome: number for outcome, number in findings.outcomes.items() if outcome not in GOOD},
        "failures": findings.failures[:FAILURES_SHOWN],
        "peak_bytes": findings.peak_bytes,
        "peak_share_of_limit": findings.peak_share,
        "seconds": round(seconds, 1),
    }


def line(entry: dict[str, Any]) -> str:
    """One line of the printed table, with its first failures below."""
    failed = sum(entry["failed"].values())
    text = f"{entry['what']:<8} {entry['damage']:<7} {entry['hashes']:<9} {entry['cases']:>7} {entry['refused']:>8} {entry['model']:>7} "
    text += f"{entry['same']:>6} {failed:>7} {entry['peak_bytes'] / 1000:>8.0f} {entry['peak_share_of_limit']:>9.1%} {entry['seconds']:>6.0f}"
    return "\n".join([text, *(f"  {failure}" for failure in entry["failures"])])


if __name__ == "__main__":
    main()
