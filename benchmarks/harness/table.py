"""The results of a benchmark as a markdown page; every number comes from the lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from harness.ablations import ablations
from harness.benchmarks import variants_of
from harness.judging import HOW_IT_IS_JUDGED
from harness.markdown import markdown_table
from harness.results import Line
from harness.statistics import (
    Spread,
    added_bytes,
    front,
    live_bytes,
    max_forgetting,
    mean,
    paired_difference,
    points,
    signed_points,
    spread,
    training_processor,
)
from harness.strategies import is_told_the_task
from harness.unnamed import without_task_names
from harness.variants import DENSE_COLD
from harness.verdict import checks
from harness.versions import versions

Lines = Mapping[str, Sequence[Line]]
"""Variant -> its lines, one per seed."""


def render_table(benchmark: str, lines: Lines) -> str:
    """The page.

    Args:
        benchmark: name of the benchmark.
        lines: at least one variant with at least one line; variants that the benchmark no longer has come last.
    """
    what = {variant.name: variant.what for variant in variants_of(benchmark)}
    order = [name for name in what if name in lines] + sorted(name for name in lines if name not in what)
    sections = [
        f"# {benchmark}",
        "Written by `python benchmarks/continual.py table " + benchmark + "` from the lines beside it; what the columns mean stands in ../README.md.",
        f"![accuracy against bytes]({benchmark}.svg)",
        f"![accuracy as tasks arrive]({benchmark}_tasks.svg)",
        *_verdict(lines),
        "## Accuracy and bytes",
        markdown_table(_MAIN_HEAD, [_main_row(name, what.get(name, ""), lines, order) for name in order]),
        *ablations(benchmark, lines),
        *without_task_names(lines),
        "## Where the bytes are (kB, all tasks)",
        _breakdown(order, lines),
        "## What the stores are compared with (kB)",
        _denominators(order, lines),
        "## Time and memory",
        markdown_table(_COST_HEAD, [_cost_row(name, lines[name]) for name in order]),
        *versions({name: lines[name] for name in order}),
        "## Where the numbers come from",
        _provenance(order, lines),
    ]
    return "\n\n".join(sections) + "\n"


_MAIN_HEAD = (
    "variant", "", "seeds", "test %", "minus cold, points", "validation %", "bwt, points", "fwt, points", "max forgetting, points", "kB",
    "kB superseded", "% of one dense net", "kB per added task", "front"
)  # fmt: skip


def _main_row(name: str, what: str, lines: Lines, order: Sequence[str]) -> list[str]:
    own = lines[name]
    difference = paired_difference(own, lines.get(DENSE_COLD, ()), "acc")
    share = [100 * live_bytes(line) / line["denominators"]["dense_fp32"] for line in own]
    return [
        f"`{name}`",
        what,
        str(len(own)),
        _percent(spread([line["acc"] for line in own])),
        "" if difference is None or name == DENSE_COLD else signed_points(difference),
        _percent(spread([line["validation"] for line in own])),
        points([line["bwt"] for line in own]),
        points([line.get("fwt") for line in own]),
        points([max_forgetting(line) for line in own]),
        _kilobytes(spread([live_bytes(line) for line in own])),
        f"{mean([line.get('superseded_bytes', 0) for line in own]) / 1000:,.1f}",
        f"{mean(share):.1f}",
        _kilobytes(spread([added_bytes(line) for line in own])),
        "*" if name in _front(lines, order) else "",
    ]


def _front(lines: Lines, order: Sequence[str]) -> set[str]:
    told = [name for name in order if is_told_the_task(name)]
    return front({name: (mean([live_bytes(line) for line in lines[name]]), _mean(lines[name], "acc")) for name in told})


def _verdict(lines: Lines) -> list[str]:
    """Nothing where no claim can be judged."""
    found = checks(lines)
    if not found:
        return []
    rows = [[check.claim, check.words, check.numbers] for check in found]
    return ["## Verdict", HOW_IT_IS_JUDGED, markdown_table(("claim", "in these lines", "measured"), rows)]


def _breakdown(order: Sequence[str], lines: Lines) -> str:
    stores = [name for name in order if lines[name][0]["breakdown"]]
    if not stores:
        return "No store was measured yet."
    kinds = list(lines[stores[0]][0]["breakdown"])
    rows = [
        [f"`{name}`", *(f"{mean([line['breakdown'][kind] for line in lines[name]]) / 1000:,.1f}" for kind in kinds), _entropy(lines[name])]
        for name in stores
    ]
    return markdown_table(("variant", *kinds, "entropy of masks and codes"), rows)


def _entropy(own: Sequence[Line]) -> str:
    return f"{_mean(own, 'entropy_bytes') / 1000:,.1f}"


def _denominators(order: Sequence[str], lines: Lines) -> str:
    keys = list(dict.fromkeys(key for name in order for key in lines[name][0]["denominators"]))
    rows = []
    for name in order:
        own = lines[name]
        cells = [f"{mean([line['denominators'][key] for line in own]) / 1000:,.1f}" if key in own[0]["denominators"] else "" for key in keys]
        rows.append([f"`{name}`", f"{_mean(own, 'store_bytes') / 1000:,.1f}", *cells])
    return markdown_table(("variant", "itself", *keys), rows)


_COST_HEAD = (
    "variant", "threads", "training, 1e12 operations", "training, processor s", "everything, processor s", "everything, wall s (machine shared)",
    "peak memory, MB"
)  # fmt: skip


def _cost_row(name: str, own: Sequence[Line]) -> list[str]:
    memory = _mean(own, "peak_memory_bytes") / 1e6
    threads = ", ".join(sorted({str(line["threads"]) for line in own}))
    processor, clock = (spread([line[key] for line in own]) for key in ("cpu_s", "wall_s"))
    counted = [line["training_flops"] / 1e12 for line in own if "training_flops" in line]
    operations = spread(counted).text(3) if counted else ""
    return [f"`{name}`", threads, operations, training_processor(own), processor.text(1), clock.text(0), f"{memory:,.0f}"]


def _provenance(order: Sequence[str], lines: Lines) -> str:
    every = [line for name in order for line in lines[name]]
    packages = sorted({", ".join(f"{package} {version}" for package, version in line["versions"].items()) for line in every})
    return "\n".join(
        [
            *(f"- processor: {text}" for text in sorted({line["processor"] for line in every})),
            *(f"- versions: {text}" for text in packages),
            *(f"- source (sha256): {text}" for text in sorted({line["source_sha256"] for line in every})),
            *(f"- data (sha256): {text}" for text in sorted({line["data_sha256"] for line in every})),
            "- commands: the `command` of each line",
        ]
    )


def _percent(value: Spread) -> str:
    return value.times(100).text(2)


def _kilobytes(value: Spread) -> str:
    return value.times(1e-3).text(1)


def _mean(own: Sequence[Line], key: str) -> float:
    return mean([line[key] for line in own])
