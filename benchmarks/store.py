"""How fast the store is, as ratios measured in one run: python benchmarks/store.py [--quick] [--out FILE] [--keep FOLDER].

Prints a table and writes it as JSON (default: benchmarks/results/store.json). Compared are

- materialising one task's weights as float32, from the store's files, with reading the same weights from a dense fp32 safetensors file;
- k-means with scikit-learn's;
- and measured: coded symbols per second, commits, peak memory, and which files one of 100 tasks needs.

The compiled decoder is used where the package was installed with it; `TSN_TOOLKIT_PURE=1` measures the arrays.

`open` (the hash of every part is checked) is not part of `materialise`; it stands beside it. Peak memory is of both; what the first task that a
process loads costs whatever its size (pages of libraries, tables), stands beside it as `once_bytes`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
from harness.provenance import processor
from safetensors.numpy import load_file, save_file
from sklearn.cluster import KMeans
from store_speed import child
from store_speed.stores import DENSITY, KINDS, Chain
from store_speed.timing import Action, drop_from_page_cache, milliseconds, ratio, take_turns

from tsn_toolkit.numerics.bit_runs import BitDecoder, encode_bit_runs, nearest_chance
from tsn_toolkit.numerics.entropy import RunDecoder, encode_runs, quantize_frequencies
from tsn_toolkit.numerics.kmeans import kmeans_1d
from tsn_toolkit.numerics.large_runs import decode_large_run, encode_large_run
from tsn_toolkit.pipeline.summary import versions
from tsn_toolkit.store.compiled_chain import compiled_decoder
from tsn_toolkit.store.store import Store

RESULT = Path(__file__).parent / "results" / "store.json"
WIDTHS = {"1M": 20, "11M": 64}
SMALL_WIDTH = 2
LENGTHS = (1, 10)
GOALS = {"element": 10.0, "trained": 10.0}
DENSE_GOAL = 2.0
CLUSTERS = 16
PAGE = 4096


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--quick", is_flag=True, help="The small network only and fewer turns: under a minute.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULT, help="JSON file to write; default: results/store.json beside this file.")
@click.option("--keep", type=click.Path(path_type=Path), help="Folder to leave the synthetic stores in; default: a temporary one.")
@click.option("--only", type=click.Choice(KINDS), multiple=True, help="Only these kinds of stores.")
def main(quick: bool, out: Path, keep: Path | None, only: tuple[str, ...]) -> None:
    """Measure the speed of the store."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        decoder = "arrays" if compiled_decoder() is None else "compiled"
        result: dict[str, Any] = {"quick": quick, "decoder": decoder, "processor": processor(), "versions": versions(), "rows": []}
        print(f"decoder: {decoder}\n{_header()}", flush=True)
        for size in ("1M",) if quick else tuple(WIDTHS):
            for kind in only or KINDS:
                for row in measure_chain(folder, kind, size, turns=3 if quick else 9):
                    result["rows"].append(row)
                    print(_line(row), flush=True)
        for name, measure in {"coder": measure_coder, "kmeans": measure_kmeans, "hundred_tasks": measure_hundred}.items():
            result[name] = measure(folder, quick)
            print(f"{name}: {json.dumps(result[name])}", flush=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"written to {out}")


def measure_chain(folder: Path, kind: str, size: str, turns: int) -> list[dict[str, Any]]:
    """One row for each length of one chain."""
    path = folder / f"{kind}-{size}".replace("(", "").replace(")", "")
    chain = Chain(path, kind, WIDTHS[size])
    rows = []
    for length in LENGTHS:
        chain.grow(length - 1)
        task = chain.next_task()
        start = time.perf_counter()
        chain.store.commit(task, {})
        commit_s = time.perf_counter() - start
        rows.append({**measure_reading(path, chain.newest, kind, turns), "kind": kind, "size": size, "chain": length, "commit_s": round(commit_s, 3)})
        rows[-1] |= {"weights": chain.size, "store_bytes": sum(_part_sizes(chain.store))}
    return rows


def measure_reading(path: Path, task: str, kind: str, turns: int) -> dict[str, Any]:
    """Times of opening a store, of materialising a task and of reading the same weights dense; peak memory."""
    dense = path.with_suffix(".safetensors")
    save_file(Store.open(path).dense_weights(task), dense)
    materialise = Action(lambda store: store.dense_weights(task), lambda: Store.open(path))
    actions = {"dense": Action(lambda _: read_dense(dense)), "open": Action(lambda _: Store.open(path)), "materialise": materialise}
    report: dict[str, Any] = {"warm": _times(take_turns(actions, turns, fresh=True))}
    if drop_from_page_cache([path, dense]):
        report["cold"] = _times(take_turns(_cold(actions, path), turns, before=lambda: drop_from_page_cache([path, dense]), fresh=True))
    else:
        report["cold"] = "not measured: the system keeps the pages"
    memory = run_child("memory", path, task, _small_store(path, kind))
    return {**report, **memory, "peak_ratio": round(memory["peak_bytes"] / memory["dense_bytes"], 3)}


def _small_store(beside: Path, kind: str) -> Path:
    """A store of the same kind with eleven thousand weights, beside another."""
    path = beside.with_name(f"{beside.name}-small")
    if not path.exists():
        Chain(path, kind, SMALL_WIDTH).grow(1)
    return path


def _cold(actions: dict[str, Action], path: Path) -> dict[str, Action]:
    """The same with the pages that opening a store has read dropped again before it is used."""

    def opened() -> Store:
        store = Store.open(path)
        drop_from_page_cache([path])
        return store

    return {**actions, "materialise": Action(actions["materialise"].run, opened)}


def read_dense(path: Path) -> float:
    """Reads all weights of a safetensors file and touches each page of them."""
    return sum(float(array.reshape(-1)[:: PAGE // array.itemsize].sum()) for array in load_file(path).values())


def measure_coder(folder: Path, quick: bool) -> dict[str, Any]:
    """Million symbols per second: bits of masks, and codes of 4 bits as ANS words and as a large run."""
    count = 1_000_000 if quick else 11_000_000
    rng = np.random.default_rng(0)
    bits = (rng.random(count) < DENSITY["element"]).astype(np.uint8)
    chance = int(nearest_chance(int(bits.sum()), count))
    codes = np.clip(np.rint(rng.normal(7.5, 3, count)), 0, 15).astype(np.uint8)
    counts = np.bincount(codes, minlength=16)
    table = quantize_frequencies(counts)
    words, bit_words, payload = encode_runs([(codes, table)]), encode_bit_runs([(bits, chance)]), encode_large_run(codes, counts)
    actions = {
        "mask bits encode": Action(lambda _: encode_bit_runs([(bits, chance)])),
        "mask bits decode": Action(lambda _: BitDecoder(bit_words).read(chance, count)),
        "codes encode": Action(lambda _: encode_runs([(codes, table)])),
        "codes decode": Action(lambda _: RunDecoder(words).read(table, count)),
        "large run of codes encode": Action(lambda _: encode_large_run(codes, counts)),
        "large run of codes decode": Action(lambda _: decode_large_run(payload, 16, count)),
    }
    return {name: round(count / float(np.median(times)) / 1e6, 1) for name, times in take_turns(actions, 3).items()}


def measure_kmeans(folder: Path, quick: bool) -> dict[str, float]:
    """Time and inertia against scikit-learn's k-means, 4 million float32 values, 16 clusters."""
    values = np.random.default_rng(0).normal(0, 20, 4_000_000).astype(np.float32)
    fits: dict[str, float] = {}

    def ours(_: object) -> None:
        fits["ours"] = kmeans_1d(values, CLUSTERS)[1]

    def theirs(_: object) -> None:
        fits["theirs"] = float(KMeans(CLUSTERS, n_init=1, random_state=0).fit(values[:, None]).inertia_)

    seconds = take_turns({"theirs": Action(theirs), "ours": Action(ours)}, 1 if quick else 3)
    return {
        "ours_s": round(float(np.median(seconds["ours"])), 4),
        "scikit_learn_s": round(float(np.median(seconds["theirs"])), 4),
        "times_faster": round(1 / ratio(seconds["ours"], seconds["theirs"]), 1),
        "inertia_ratio": round(fits["ours"] / fits["theirs"], 6),
    }


def measure_hundred(folder: Path, quick: bool) -> dict[str, Any]:
    """Which files of a store of 100 tasks one task of a chain of 4 needs."""
    path = folder / "hundred"
    chain = Chain(path, "element", 4)
    chain.grow(4)
    wanted = chain.newest
    while len(chain.store.entries) < 100:
        chain.store.commit(chain.next_task("trunk"), {})
    report = run_child("files", path, wanted)
    sizes = _part_sizes(chain.store)
    return {**report, "chain": len(chain.store.chain(wanted)), "parts": len(sizes), "store_bytes": sum(sizes)}


def _part_sizes(store: Store) -> list[int]:
    return [store.trunk_entry.size_bytes, *(entry.size_bytes for entry in store.entries)]


def run_child(what: str, *arguments: str | Path) -> dict[str, Any]:
    """Runs one measurement of `child.py` in a process of its own."""
    done = subprocess.run([sys.executable, child.__file__, what, *map(str, arguments)], capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


def _times(seconds: dict[str, list[float]]) -> dict[str, Any]:
    return {name: milliseconds(times) for name, times in seconds.items()} | {"ratio": ratio(seconds["materialise"], seconds["dense"])}


_COLUMNS = {
    "store": "{kind:10}",
    "weights": "{size:>7}",
    "chain": "{chain:>5}",
    "bytes": "{store_bytes:>9}",
    "dense ms": "{dense:>8.2f}",
    "ms": "{materialise:>8.1f}",
    "ratio": "{ratio:>6.2f}",
    "goal": "{goal:>5.1f}",
    "cold": "{cold:>6}",
    "open ms": "{open:>8.1f}",
    "peak": "{peak_ratio:>5.2f}",
    "commit s": "{commit_s:>8.2f}",
}


def _header() -> str:
    return "  ".join(title.rjust(len(_cell(form))) if index else title.ljust(10) for index, (title, form) in enumerate(_COLUMNS.items()))


def _line(row: dict[str, Any]) -> str:
    medians = {name: row["warm"][name]["median"] for name in ("dense", "materialise", "open")}
    cold = row["cold"]["ratio"] if isinstance(row["cold"], dict) else "-"
    values = {**row, **medians, "ratio": row["warm"]["ratio"], "cold": cold, "goal": GOALS.get(row["kind"], DENSE_GOAL)}
    return "  ".join(form.format(**values) for form in _COLUMNS.values())


def _cell(form: str) -> str:
    return " " * int("".join(digit for digit in form.partition(":")[2].partition(".")[0] if digit.isdigit()))


if __name__ == "__main__":
    main()
