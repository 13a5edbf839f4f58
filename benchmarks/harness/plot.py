"""Accuracy against bytes, and accuracy as tasks arrive, as SVG; the same lines give the same files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.benchmarks import variants_of
from harness.results import Line
from harness.statistics import accuracy_so_far, front, live_bytes, mean, spread
from harness.strategies import is_told_the_task


def draw_plot(benchmark: str, lines: Mapping[str, Sequence[Line]], path: Path) -> None:
    """Writes the plot: one point per variant, mean over seeds with deviations, bytes on a logarithmic axis, the front as a line.

    Args:
        benchmark: name of the benchmark.
        lines: variant -> its lines, one per seed.
        path: file to write.
    """
    pyplot = _pyplot()
    families, order = _families(benchmark, lines)
    kinds = list(dict.fromkeys(families.get(name, "other") for name in order))
    sizes = {name: spread([live_bytes(line) / 1000 for line in lines[name]]) for name in order}
    accuracies = {name: spread([100 * line["acc"] for line in lines[name]]) for name in order}
    with pyplot.rc_context(_style(benchmark)):
        figure, axes = pyplot.subplots(figsize=(10, 6.5))
        for index, kind in enumerate(kinds):
            members = [name for name in order if families.get(name, "other") == kind]
            axes.errorbar(
                [sizes[name].mean for name in members],
                [accuracies[name].mean for name in members],
                xerr=[sizes[name].deviation or 0.0 for name in members],
                yerr=[accuracies[name].deviation or 0.0 for name in members],
                fmt="os^DvPX"[index % 7],
                color=f"C{index % 10}",
                capsize=2,
                label=kind,
            )
            for name in members:
                axes.annotate(name, (sizes[name].mean, accuracies[name].mean), xytext=(4, 3), textcoords="offset points", fontsize=6)
        told = {name: (sizes[name].mean, accuracies[name].mean) for name in order if is_told_the_task(name)}
        best = sorted(front(told), key=lambda name: sizes[name].mean)
        axes.plot([sizes[name].mean for name in best], [accuracies[name].mean for name in best], color="0.7", linewidth=0.8, zorder=0, label="front")
        one_net = spread([line["denominators"]["dense_fp32"] / 1000 for name in order for line in lines[name]]).mean
        for share, style in ((1.0, "--"), (0.1, ":")):
            label = f"{share:.0%} of one dense fp32 net, all heads"
            axes.axvline(one_net * share, color="0.5", linestyle=style, linewidth=0.8, zorder=0, label=label)
        axes.set_xscale("log")
        axes.set_xlabel("kB of all tasks together, files on disk, without superseded revisions")
        axes.set_ylabel("mean test accuracy, %")
        axes.set_title(benchmark)
        axes.grid(True, which="both", linewidth=0.3)
        axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.01, 0.5))
        _save(pyplot, figure, path)


def draw_arrival(benchmark: str, lines: Mapping[str, Sequence[Line]], path: Path) -> None:
    """Writes the plot: after each task, the mean accuracy over the tasks so far, mean over seeds; a line per variant with a matrix R.

    Args:
        benchmark: name of the benchmark.
        lines: variant -> its lines, one per seed.
        path: file to write.
    """
    pyplot = _pyplot()
    families, order = _families(benchmark, lines)
    order = [name for name in order if lines[name][0]["R"] is not None]
    kinds = list(dict.fromkeys(families.get(name, "other") for name in order))
    with pyplot.rc_context(_style(benchmark)):
        figure, axes = pyplot.subplots(figsize=(10, 6.5))
        for name in order:
            kind = families.get(name, "other")
            siblings = [other for other in order if families.get(other, "other") == kind]
            seeds = [accuracy_so_far(line) for line in lines[name]]
            height = [100 * mean(after) for after in zip(*seeds, strict=True)]
            dashes = ("-", "--", "-.", ":")[siblings.index(name) % 4]
            axes.plot(range(1, len(height) + 1), height, dashes, color=f"C{kinds.index(kind) % 10}", linewidth=1, label=name)
        axes.set_xlabel("tasks learned")
        axes.set_ylabel("mean test accuracy on the tasks so far, %")
        axes.set_title(benchmark)
        axes.grid(True, linewidth=0.3)
        axes.legend(fontsize=6, loc="center left", bbox_to_anchor=(1.01, 0.5), ncols=2)
        _save(pyplot, figure, path)


def _pyplot() -> Any:
    """Imported when used, without a display."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _style(benchmark: str) -> dict[str, Any]:
    """Nothing random in the file, text as text."""
    return {"svg.hashsalt": benchmark, "svg.fonttype": "none", "font.size": 8}


def _families(benchmark: str, lines: Mapping[str, Sequence[Line]]) -> tuple[dict[str, str], list[str]]:
    """Variant -> family, and the measured variants in the order of the table, unknown ones last."""
    families = {variant.name: variant.family for variant in variants_of(benchmark)}
    return families, [name for name in families if name in lines] + sorted(name for name in lines if name not in families)


def _save(pyplot: Any, figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None}, bbox_inches="tight")
    pyplot.close(figure)
