"""Accuracy, bytes and cost of many settings on one benchmark: run one, run all that is missing, make the table and the plots. See README.md.

python benchmarks/continual.py run permuted_digits dense-cold --seed 0
python benchmarks/continual.py all permuted_digits --seeds 0,1,2
python benchmarks/continual.py table permuted_digits
"""

from __future__ import annotations

import fnmatch
import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import click
from harness.benchmarks import BENCHMARKS, variants_of
from harness.fresh import IMPORTED_WHEN_USED
from harness.measured import measure_variant, settings_of
from harness.plot import draw_arrival, draw_plot
from harness.results import append_line, missing_runs, newest_lines, of_today, read_lines
from harness.table import render_table
from harness.variants import Variant

from tsn_toolkit.errors import TsnError
from tsn_toolkit.files import write_text
from tsn_toolkit.pipeline.hooks import Say

RESULTS = Path(__file__).parent / "results"

BENCHMARK = click.argument("benchmark", type=click.Choice(BENCHMARKS))
RESULTS_OPTION = click.option("--results", type=click.Path(path_type=Path), default=RESULTS, help="Folder of the results; default: beside this file.")
THREADS_OPTION = click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="Threads of one run.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Measure accuracy and bytes of continual learning."""


@main.command("list")
@BENCHMARK
def list_variants(benchmark: str) -> None:
    """Names the variants."""
    for variant in variants_of(benchmark):
        click.echo(f"{variant.name:<20} {variant.what}")


@main.command()
@BENCHMARK
@click.argument("variant")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True)
@THREADS_OPTION
@RESULTS_OPTION
def run(benchmark: str, variant: str, seed: int, threads: int, results: Path) -> None:
    """Measures one VARIANT and adds one line to the results."""
    try:
        shown = _measure(benchmark, _variant(benchmark, variant), seed, threads, results, lambda text: click.echo(text, err=True))
    except TsnError as error:
        raise click.ClickException(str(error)) from error
    click.echo(shown)


@main.command("all")
@BENCHMARK
@click.option("--seeds", default="0", show_default=True, help="Seeds, separated by commas.")
@click.option("--jobs", type=click.IntRange(1), default=1, show_default=True, help="Runs at a time, each in a process of its own.")
@click.option("--only", default="*", show_default=True, help="Names of variants, separated by commas; may hold * and ?.")
@THREADS_OPTION
@RESULTS_OPTION
def run_missing(benchmark: str, seeds: str, jobs: int, only: str, threads: int, results: Path) -> None:
    """Measures every variant and seed that the results do not hold with the settings of today; a run that fails stops no other."""
    try:
        chosen_seeds = [int(seed) for seed in seeds.split(",")]
    except ValueError as problem:
        raise click.BadParameter(f"got {seeds!r}; give whole numbers separated by commas, for example 0,1,2.", param_hint="--seeds") from problem
    patterns = only.split(",")
    variants = [v for v in variants_of(benchmark) if any(fnmatch.fnmatchcase(v.name, pattern) for pattern in patterns)]
    wanted = [(variant.name, settings_of(benchmark, variant)) for variant in variants]
    todo = missing_runs(read_lines(_lines_file(results, benchmark)), wanted, chosen_seeds)
    click.echo(f"{len(todo)} of {len(wanted) * len(chosen_seeds)} runs are missing", err=True)
    failed = []
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["harness.measured", *IMPORTED_WHEN_USED])
    with ProcessPoolExecutor(jobs, mp_context=server, max_tasks_per_child=1) as pool:
        runs = {pool.submit(_run_apart, benchmark, variant, seed, threads, results): f"{variant} (seed {seed})" for variant, seed in todo}
        for done in as_completed(runs):
            try:
                click.echo(done.result())
            except Exception as error:  # whatever it was, the other runs go on
                failed.append(runs[done])
                click.echo(f"{runs[done]} failed: {error}", err=True)
    if failed:
        raise click.ClickException(f"{len(failed)} of {len(todo)} runs failed: {', '.join(failed)}")


@main.command()
@BENCHMARK
@RESULTS_OPTION
def table(benchmark: str, results: Path) -> None:
    """Writes the table and the plot of all results with the settings of today; a line of other settings compares with nothing."""
    today = [settings_of(benchmark, variant) for variant in variants_of(benchmark)]
    lines = newest_lines(of_today(read_lines(_lines_file(results, benchmark)), today))
    if not lines:
        raise click.ClickException(f"{_lines_file(results, benchmark)} holds no result. Run `python benchmarks/continual.py all {benchmark}` first.")
    write_text(results / f"{benchmark}.md", render_table(benchmark, lines))
    draw_plot(benchmark, lines, results / f"{benchmark}.svg")
    draw_arrival(benchmark, lines, results / f"{benchmark}_tasks.svg")
    click.echo(str(results / f"{benchmark}.md"))


def _run_apart(benchmark: str, variant: str, seed: int, threads: int, results: Path) -> str:
    """One run in a process of its own, so that its peak memory is its own."""
    return _measure(benchmark, _variant(benchmark, variant), seed, threads, results, lambda _: None)


def _measure(benchmark: str, variant: Variant, seed: int, threads: int, results: Path, say: Say) -> str:
    """Adds one line to the results; the numbers to show."""
    command = f"python benchmarks/continual.py run {benchmark} {variant.name} --seed {seed} --threads {threads}"
    line = measure_variant(benchmark, variant, seed=seed, threads=threads, command=command, say=say)
    append_line(line, _lines_file(results, benchmark))
    return json.dumps({key: line[key] for key in ("variant", "seed", "acc", "validation", "bwt", "store_bytes", "wall_s", "cpu_s")})


def _variant(benchmark: str, name: str) -> Variant:
    variants = {variant.name: variant for variant in variants_of(benchmark)}
    if name not in variants:
        raise click.BadParameter(f"{benchmark} has no variant {name!r}; it has {', '.join(variants)}.", param_hint="VARIANT")
    return variants[name]


def _lines_file(results: Path, benchmark: str) -> Path:
    return results / f"{benchmark}.jsonl"


if __name__ == "__main__":
    main()
