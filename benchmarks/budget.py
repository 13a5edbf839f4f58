"""What a planned division of bytes is worth: python benchmarks/budget.py [--quick] [--seed N] [--threads N] [--out FOLDER].

The trained CIFAR-100 ResNet-20 of `recipes/cifar100_resnet20.yaml` (set TSN_DATA) is compressed in one step at five budgets of bytes: by the planner,
and with one density in all layers at one bit width, at the same bytes. Masks by magnitude, exact k-means codes, norms averaged anew, no training.
What an option changes is measured once and serves all budgets. Everything is chosen on training images before the test images are looked at. Writes
budget.md, budget.json and budget.svg.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from harness.provenance import processor, source_digest
from numpy.typing import NDArray
from one_shot import RECIPE, Subject, load_subject
from torch.nn import functional

from tsn_toolkit.errors import TsnError
from tsn_toolkit.files import write_text
from tsn_toolkit.numerics.half import half_size_bytes
from tsn_toolkit.numerics.paired import paired_difference
from tsn_toolkit.pipeline.summary import versions
from tsn_toolkit.plan.answers import divergences
from tsn_toolkit.plan.candidate import Candidate, Examiner, LayerOption
from tsn_toolkit.plan.cost_model import CostModel
from tsn_toolkit.plan.sensitivity import constant_bytes, measure_sensitivity
from tsn_toolkit.plan.solve import solve
from tsn_toolkit.trainer.norms import reestimate_norms_
from tsn_toolkit.vocabulary import MAX_CODE

RESULTS = Path(__file__).parent / "results"
OPTIONS = ((1.0, 6), (1.0, 5), (1.0, 4), (0.7, 4), (1.0, 3), (0.6, 3), (0.45, 3), (0.45, 2), (0.25, 2), (0.15, 2), (0.1, 1))
"""Density and bits per code: in most layers of this network, all that is not dominated in bytes and squared error of the weights."""
BUDGETS = ((4, 1.0), (3, 1.0), (2, 1.0), (2, 0.8), (2, 0.65))
"""Bits of a network of uniform bit width that a budget takes its bytes from, and the share of these bytes."""
UNIFORM_WIDTHS = (4, 3, 2)
"""Bits of the uniform networks, each at the largest density that fits."""
LEAST_USE = 0.95
"""A uniform network that needs less than this share of a budget even in full is left out there."""
PLANNING = 128
CALIBRATION = 512
TEST = 2000
NORMS_BATCH = 128
HALVINGS = 8
HEAD_BITS = 8
PLANNER = "planner"


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--quick", is_flag=True, help="Two budgets, four options per layer, 64 planning and 256 test images: about a minute.")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Draws the training images.")
@click.option("--threads", type=click.IntRange(1), default=2, show_default=True)
@click.option("--test-images", type=click.IntRange(100), default=TEST, show_default=True, help="The first of each class in turn; 10000 are all.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS, help="Folder of the results; default: beside this file.")
def main(quick: bool, seed: int, threads: int, test_images: int, out: Path) -> None:
    """Measure plans under a budget against uniform ones."""
    torch.set_num_threads(threads)
    planning, calibration, test_images = (64, 256, 256) if quick else (PLANNING, CALIBRATION, test_images)
    options, budgets = (OPTIONS[2::3], BUDGETS[2:4]) if quick else (OPTIONS, BUDGETS)
    started, processor_started = time.monotonic(), time.process_time()
    try:
        subject = load_subject(seed, calibration, test_images)
    except TsnError as error:
        raise click.ClickException(str(error)) from error
    flags = ("--quick " if quick else "") + f"--seed {seed} --threads {threads} --test-images {test_images}"
    result: dict[str, Any] = {"command": f"python benchmarks/budget.py {flags}", "seed": seed}
    result |= measure(subject, options, budgets, planning=planning)
    result |= {"wall_s": round(time.monotonic() - started, 1), "processor_s": round(time.process_time() - processor_started, 1)}
    result |= {"versions": versions(), "processor": processor(), "source_sha256": source_digest()}
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "budget.json", json.dumps(result, indent=1) + "\n")
    write_text(out / "budget.md", render(result))
    draw(result, out / "budget.svg")
    click.echo(f"written to {out / 'budget.md'} after {result['wall_s']} s")


def measure(subject: Subject, options: Sequence[tuple[float, int]], budgets: Sequence[tuple[int, float]], *, planning: int) -> dict[str, Any]:
    """All candidates first, then each once on the test images.

    Args:
        subject: network and images.
        options: density and bits that every layer but the head may take.
        budgets: as `BUDGETS`.
        planning: of the calibration images, how many plans are made on.

    Returns:
        `dense_accuracy`; `rows`: one per budget and method with bytes, accuracy and the whole network's divergence on the planning images, of the
        planner the summed divergence of single options with its lower bound, of the others how much better the planner is; numbers of images,
        passes and seconds.
    """
    chosen = (subject.calibration[0][:planning], subject.calibration[1][:planning])
    examiner = Examiner(subject.model, subject.graph, chosen, _loss, max_code=MAX_CODE)
    names = [layer.name for layer in subject.graph.layers if layer.name != subject.graph.head]
    per_layer = [LayerOption(density, "element", width) for density, width in options]
    start = time.monotonic()
    table = measure_sensitivity(examiner, dict.fromkeys(names, per_layer), {}, max_passes=len(names) * len(options) + 1, head_bits=HEAD_BITS)
    sensitivity_s = time.monotonic() - start
    model = CostModel(subject.graph, table)
    planned: list[tuple[dict[str, Any], Candidate]] = []
    for width, share in budgets:
        limit = share * size_bytes(examiner, dict.fromkeys(names, LayerOption(1.0, "element", width)))
        for about, layers in _candidates(examiner, model, names, limit):
            candidate = Candidate(layers)
            moved = float(divergences(table.whole, examiner.answers(candidate)).mean())
            row = {"budget_bytes": round(limit), "bytes": round(size_bytes(examiner, layers)), "divergence": round(moved, 5)}
            planned.append((about | row, candidate))
    return {
        "dense_accuracy": round(float(correct(examiner, Candidate(), subject).mean()), 5),
        "rows": _rows([(row, correct(examiner, candidate, subject)) for row, candidate in planned]),
        "dense_fp32_bytes": 4 * sum(parameter.numel() for parameter in subject.model.parameters()),
        "planning_images": len(chosen[1]),
        "calibration_images": len(subject.calibration[1]),
        "test_images": len(subject.test[1]),
        "passes": table.passes,
        "sensitivity_s": round(sensitivity_s, 1),
        "options": [list(option) for option in options],
    }


def _candidates(examiner: Examiner, model: CostModel, names: Sequence[str], limit: float) -> list[tuple[dict[str, Any], Mapping[str, LayerOption]]]:
    """The planner's choice and the uniform networks within `limit` bytes, with what is known of each."""
    start = time.monotonic()
    found = solve(model, {"size_bytes": limit})
    seconds = round(time.monotonic() - start, 2)
    about = {"method": PLANNER, "predicted": round(found.divergence, 5), "lower_bound": round(found.bound, 5), "solve_s": seconds}
    candidates: list[tuple[dict[str, Any], Mapping[str, LayerOption]]] = [(about, model.candidate(found.choice).layers)]
    for width in UNIFORM_WIDTHS:
        if size_bytes(examiner, dict.fromkeys(names, LayerOption(1.0, "element", width))) >= LEAST_USE * limit:
            layers = uniform_density(examiner, names, width, limit)
            candidates.append(({"method": f"uniform, {width} bits", "density": layers[names[0]].density}, layers))
    return candidates


def _rows(measured: Sequence[tuple[dict[str, Any], NDArray[np.float64]]]) -> list[dict[str, Any]]:
    """Rows with accuracies; those of uniform networks with what the planner has more at the same budget, paired by test image."""
    planner = {row["budget_bytes"]: right for row, right in measured if row["method"] == PLANNER}
    rows = []
    for row, right in measured:
        row = row | {"accuracy": round(float(right.mean()), 5)}
        if row["method"] != PLANNER:
            gain = paired_difference(planner[row["budget_bytes"]], right)
            row |= {"planner_gain": round(gain.mean, 5), "standard_error": round(gain.standard_error, 5)}
        rows.append(row)
    return rows


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


def correct(examiner: Examiner, candidate: Candidate, subject: Subject) -> NDArray[np.float64]:
    """1 for every test image that is answered rightly, float64 (n,), norms averaged anew on the training images."""
    with examiner.applied(candidate) as applied:
        model = copy.deepcopy(applied)
    reestimate_norms_(model, list(torch.split(subject.calibration[0], NORMS_BATCH)))
    x, y = subject.test
    with torch.no_grad():
        right = [model(a).argmax(1) == b for a, b in zip(x.split(NORMS_BATCH), y.split(NORMS_BATCH), strict=True)]
    answered: NDArray[np.float64] = torch.cat(right).double().numpy()
    return answered


def _loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return functional.cross_entropy(logits, labels, reduction="none")


def render(result: Mapping[str, Any]) -> str:
    """The page: no number in it is typed by hand."""
    methods = list(dict.fromkeys(row["method"] for row in result["rows"]))
    cells = {(row["budget_bytes"], row["method"]): row for row in result["rows"]}
    budgets = sorted({row["budget_bytes"] for row in result["rows"]}, reverse=True)

    def table(title: str, show: Any, shown: Sequence[str] = tuple(methods)) -> list[str]:
        lines = [
            f"| {budget / 1000:.1f} | " + " | ".join(show(cells[budget, m]) if (budget, m) in cells else "-" for m in shown) + " |"
            for budget in budgets
        ]
        return ["", title, "", "| kB | " + " | ".join(shown) + " |", "|-|" + "-|" * len(shown), *lines]

    uniform = [method for method in methods if method != PLANNER]
    lines = [
        *_introduction(result),
        *table("Top-1, percent:", lambda row: f"{100 * row['accuracy']:.1f}"),
        *table(
            "Planner minus uniform, points, paired by test image (standard error):",
            lambda row: f"{100 * row['planner_gain']:+.1f} ({100 * row['standard_error']:.1f})",
            uniform,
        ),
        *table("Bytes really taken, kB:", lambda row: f"{row['bytes'] / 1000:.1f}"),
        *table("Density of the uniform networks:", lambda row: f"{row['density']:.3f}", uniform),
        *table("Divergence from the dense network on the planning images, whole network, nats:", lambda row: f"{row['divergence']:.3f}"),
        *table(
            "Planner: summed divergence of the single options / lower bound on that sum / seconds to solve:",
            lambda row: f"{row['predicted']:.4f} / {row['lower_bound']:.4f} / {row['solve_s']}",
            [PLANNER],
        ),
    ]
    return "\n".join(lines) + "\n"


def _introduction(result: Mapping[str, Any]) -> list[str]:
    dense, options = result["dense_accuracy"], ", ".join(f"{density:g} at {width}" for density, width in result["options"])
    return [
        "# Plans under a budget of bytes",
        "",
        f"`{result['command']}` ({result['wall_s']} s, {result['processor_s']} s of processor time), recipe `{RECIPE}`, seed {result['seed']}, "
        f"{result['processor']}; " + ", ".join(f"{name} {version}" for name, version in result["versions"].items()) + ".",
        "",
        f"Accuracy on {result['test_images']} test images, looked at after all plans were made. Dense: {100 * dense:.1f} %, "
        f"{result['dense_fp32_bytes'] / 1000:.1f} kB as fp32. One step, nothing is trained: magnitude masks, exact k-means codes, batch norms "
        f"averaged anew on {result['calibration_images']} training images.",
        "",
        f"The planner measured {result['passes']} forward passes over {result['planning_images']} training images in {result['sensitivity_s']} s, "
        f"once for all budgets: in every layer density and bits {options}. Uniform networks have one density in all layers, at each of "
        f"{', '.join(map(str, UNIFORM_WIDTHS))} bits the largest that fits. Bytes are estimates: entropies of masks and codes, codebooks, vectors, "
        f"the head at {HEAD_BITS} bits.",
    ]


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
