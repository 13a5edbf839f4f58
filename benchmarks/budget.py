"""What a planned division of bytes is worth: python benchmarks/budget.py [--quick] [--seed N] [--threads N] [--out FOLDER].

The trained CIFAR-100 ResNet-20 of `recipes/cifar100_resnet20.yaml` (set TSN_DATA) is compressed in one step at six budgets of bytes: by the planner,
and with the same density or the same bit width in every layer at the same bytes. Masks by magnitude, exact k-means codes, norms averaged anew, no
training. Everything is chosen on training images before the test images are looked at. Writes budget.md, budget.json and budget.svg.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import torch
from harness.provenance import processor, source_digest
from one_shot import RECIPE, Subject, load_subject
from torch.nn import functional

from tsn_toolkit.errors import TsnError
from tsn_toolkit.files import write_text
from tsn_toolkit.numerics.half import half_size_bytes
from tsn_toolkit.pipeline.summary import versions
from tsn_toolkit.plan.candidate import Candidate, Examiner, LayerOption
from tsn_toolkit.plan.cost_model import CostModel
from tsn_toolkit.plan.sensitivity import constant_bytes, measure_sensitivity
from tsn_toolkit.plan.solve import solve
from tsn_toolkit.trainer.norms import reestimate_norms_
from tsn_toolkit.vocabulary import MAX_CODE

RESULTS = Path(__file__).parent / "results"
DENSITIES = (1.0, 0.7, 0.45, 0.25, 0.1)
BIT_WIDTHS = (6, 4, 3, 2)
BUDGETS = ((6, 1.0), (5, 1.0), (4, 1.0), (3, 1.0), (2, 1.0), (2, 0.5))
"""Bits of a network of uniform bit width that a budget takes its bytes from, and the share of these bytes."""
CALIBRATION = 256
TEST = 2000
NORMS_BATCH = 128
HALVINGS = 8
DENSITY_WIDTHS = (8, 4)
"""Bits of the controls that vary the density."""
HEAD_BITS = 8


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--quick", is_flag=True, help="Two budgets, four options per layer, 128 training and 256 test images: about a minute.")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Draws the training images.")
@click.option("--threads", type=click.IntRange(1), default=2, show_default=True)
@click.option("--test-images", type=click.IntRange(100), default=TEST, show_default=True, help="The first of each class in turn; 10000 are all.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS, help="Folder of the results; default: beside this file.")
def main(quick: bool, seed: int, threads: int, test_images: int, out: Path) -> None:
    """Measure plans under a budget against uniform ones."""
    torch.set_num_threads(threads)
    calibration, test_images = (128, 256) if quick else (CALIBRATION, test_images)
    densities, widths, budgets = ((1.0, 0.4), (4, 2), BUDGETS[3:5]) if quick else (DENSITIES, BIT_WIDTHS, BUDGETS)
    started = time.monotonic()
    try:
        subject = load_subject(seed, calibration, test_images)
    except TsnError as error:
        raise click.ClickException(str(error)) from error
    flags = ("--quick " if quick else "") + f"--seed {seed} --threads {threads} --test-images {test_images}"
    result: dict[str, Any] = {"command": f"python benchmarks/budget.py {flags}", "seed": seed}
    result |= measure(subject, densities, widths, budgets)
    result |= {"wall_s": round(time.monotonic() - started, 1), "versions": versions(), "processor": processor(), "source_sha256": source_digest()}
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "budget.json", json.dumps(result, indent=1) + "\n")
    write_text(out / "budget.md", render(result))
    draw(result, out / "budget.svg")
    click.echo(f"written to {out / 'budget.md'} after {result['wall_s']} s")


def measure(subject: Subject, densities: Sequence[float], widths: Sequence[int], budgets: Sequence[tuple[int, float]]) -> dict[str, Any]:
    """All candidates first, then each once on the test images.

    Returns:
        `dense_accuracy`; `rows`: one per budget and method with bytes, accuracy and the whole network's increase of the loss, and of the planner the
        summed increase of single options with its lower bound; numbers of images, passes and seconds.
    """
    examiner = Examiner(subject.model, subject.graph, subject.calibration, _loss, max_code=MAX_CODE)
    names = [layer.name for layer in subject.graph.layers if layer.name != subject.graph.head]
    options = [LayerOption(density, "element", width) for density in densities for width in widths]
    start = time.monotonic()
    table = measure_sensitivity(examiner, dict.fromkeys(names, options), {}, max_passes=len(names) * len(options) + 1, head_bits=HEAD_BITS)
    sensitivity_s = time.monotonic() - start
    model = CostModel(subject.graph, table)
    planned: list[tuple[dict[str, Any], Candidate]] = []
    for width, share in budgets:
        uniform = dict.fromkeys(names, LayerOption(1.0, "element", width))
        limit = share * size_bytes(examiner, uniform)
        start = time.monotonic()
        found = solve(model, {"size_bytes": limit})
        about = {"increase": round(found.increase, 5), "lower_bound": round(found.bound, 5), "solve_s": round(time.monotonic() - start, 2)}
        chosen: list[tuple[str, Mapping[str, LayerOption]]] = [("planner", model.candidate(found.choice).layers)]
        chosen += [(f"uniform density, {bits} bits", uniform_density(examiner, names, bits, limit)) for bits in DENSITY_WIDTHS]
        chosen += [("uniform bits", uniform)] if share == 1.0 else []
        for method, layers in chosen:
            candidate = Candidate(layers)
            whole = float((examiner.answers(candidate).losses - table.losses).mean())
            row = {"budget_bytes": round(limit), "method": method, "bytes": round(size_bytes(examiner, layers)), "whole_increase": round(whole, 5)}
            planned.append((row | (about if method == "planner" else {}), candidate))
    return {
        "dense_accuracy": accuracy(examiner, Candidate(), subject),
        "rows": [row | {"accuracy": accuracy(examiner, candidate, subject)} for row, candidate in planned],
        "dense_fp32_bytes": 4 * sum(parameter.numel() for parameter in subject.model.parameters()),
        "calibration_images": len(subject.calibration[1]),
        "test_images": len(subject.test[1]),
        "passes": table.passes,
        "sensitivity_s": round(sensitivity_s, 1),
        "densities": list(densities),
        "bit_widths": list(widths),
    }


def size_bytes(examiner: Examiner, layers: Mapping[str, LayerOption]) -> float:
    """Estimated bytes of a network with these options: entropies, codebooks, scales, and what stays the same."""
    coded = sum(
        examiner.size_bits(name, option) / 8 + (1 << option.bit_width) + half_size_bytes(examiner.graph.layer(name).shape[0])
        for name, option in layers.items()
    )
    return coded + constant_bytes(examiner.model, examiner.graph, HEAD_BITS)


def uniform_density(examiner: Examiner, names: Sequence[str], width: int, limit: float) -> dict[str, LayerOption]:
    """Every layer at the largest common density whose bytes are within the limit, by bisection."""
    low, high = 0.0, 1.0
    layers = dict.fromkeys(names, LayerOption(1.0, "element", width))
    if size_bytes(examiner, layers) <= limit:
        return layers
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        layers = dict.fromkeys(names, LayerOption(middle, "element", width))
        low, high = (middle, high) if size_bytes(examiner, layers) <= limit else (low, middle)
    return dict.fromkeys(names, LayerOption(max(low, 2.0**-HALVINGS), "element", width))


def accuracy(examiner: Examiner, candidate: Candidate, subject: Subject) -> float:
    """Top-1 on the test images, norms averaged anew on the training images."""
    with examiner.applied(candidate) as applied:
        model = copy.deepcopy(applied)
    reestimate_norms_(model, list(torch.split(subject.calibration[0], NORMS_BATCH)))
    x, y = subject.test
    with torch.no_grad():
        right = sum(int((model(a).argmax(1) == b).sum()) for a, b in zip(x.split(NORMS_BATCH), y.split(NORMS_BATCH), strict=True))
    return round(right / len(y), 5)


def _loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return functional.cross_entropy(logits, labels, reduction="none")


def render(result: Mapping[str, Any]) -> str:
    """The page: no number in it is typed by hand."""
    dense, images = result["dense_accuracy"], result["test_images"]
    spread = 100 * (dense * (1 - dense) / images) ** 0.5
    methods = list(dict.fromkeys(row["method"] for row in result["rows"]))
    cells = {(row["budget_bytes"], row["method"]): row for row in result["rows"]}
    budgets = sorted({row["budget_bytes"] for row in result["rows"]}, reverse=True)

    def line(budget: int, show: Any) -> str:
        return f"| {budget / 1000:.1f} | " + " | ".join(show(cells[budget, m]) if (budget, m) in cells else "-" for m in methods) + " |"

    head = ["| kB | " + " | ".join(methods) + " |", "|-|" + "-|" * len(methods)]
    lines = [
        "# Plans under a budget of bytes",
        "",
        f"`{result['command']}` ({result['wall_s']} s), recipe `{RECIPE}`, seed {result['seed']}, {result['processor']}; "
        + ", ".join(f"{name} {version}" for name, version in result["versions"].items())
        + ".",
        "",
        f"Top-1 in percent on {images} test images, looked at after all plans were made; standard error of one number near the dense one: "
        f"{spread:.1f} points. Dense: {100 * dense:.1f}, {result['dense_fp32_bytes'] / 1000:.1f} kB as fp32. One step, nothing is trained: magnitude "
        "masks, exact k-means codes, batch norms averaged anew.",
        "",
        f"The planner measured {result['passes']} forward passes over {result['calibration_images']} training images in {result['sensitivity_s']} s: "
        f"densities {', '.join(map(str, result['densities']))} with {', '.join(map(str, result['bit_widths']))} bits in every layer. Bytes are "
        "estimates: entropies of masks and codes, codebooks, vectors, the head at 8 bits.",
        "",
        *head,
        *(line(budget, lambda row: f"{100 * row['accuracy']:.1f}") for budget in budgets),
        "",
        "Bytes really taken, kB:",
        "",
        *head,
        *(line(budget, lambda row: f"{row['bytes'] / 1000:.1f}") for budget in budgets),
        "",
        "Increase of the loss on the training images, whole network:",
        "",
        *head,
        *(line(budget, lambda row: f"{row['whole_increase']:.3f}") for budget in budgets),
        "",
        "Planner: summed increase of the single options, and the lower bound on that sum:",
        "",
        "| kB | sum | lower bound | solved in s |",
        "|-|-|-|-|",
        *(
            f"| {row['budget_bytes'] / 1000:.1f} | {row['increase']:.4f} | {row['lower_bound']:.4f} | {row['solve_s']} |"
            for row in result["rows"]
            if row["method"] == "planner"
        ),
    ]
    return "\n".join(lines) + "\n"


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Accuracy against bytes as an SVG; the same result gives the same file."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with pyplot.rc_context({"svg.hashsalt": "budget", "svg.fonttype": "none", "font.size": 8}):
        figure, axes = pyplot.subplots(figsize=(6, 4))
        for index, method in enumerate(dict.fromkeys(row["method"] for row in result["rows"])):
            rows = sorted((row["bytes"] / 1000, 100 * row["accuracy"]) for row in result["rows"] if row["method"] == method)
            axes.plot(*zip(*rows, strict=True), marker="os^D"[index % 4], label=method)
        axes.axhline(100 * result["dense_accuracy"], color="0.5", linestyle="--", linewidth=0.8, label="dense")
        axes.set_xlabel("kB, estimated")
        axes.set_ylabel("top-1 on the test images, %")
        axes.set_title("one-shot compression without training")
        axes.grid(linewidth=0.3)
        axes.legend()
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None}, bbox_inches="tight")
        pyplot.close(figure)


if __name__ == "__main__":
    main()
