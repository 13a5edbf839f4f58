"""What each importance criterion is worth without retraining: python benchmarks/one_shot.py [--quick] [--seeds 0,1,2] [--threads N] [--out FOLDER].

The trained CIFAR-100 ResNet-20 of `recipes/cifar100_resnet20.yaml` (set TSN_DATA) loses weights, or units, in one step; batch norms are then averaged
anew and nothing is trained. All masks are made before the test images are looked at. Writes one_shot.md and one_shot.json.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from harness.provenance import processor, source_digest
from harness.statistics import mean, spread
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from tsn_toolkit import registry
from tsn_toolkit.contracts import ModelGraph, Split
from tsn_toolkit.data.loading import load_data
from tsn_toolkit.data.normalisation import normalise
from tsn_toolkit.errors import TsnError
from tsn_toolkit.files import write_text
from tsn_toolkit.graph import mask_units_, trace
from tsn_toolkit.importance.ranking import keep_units, keep_weights
from tsn_toolkit.model_loading import load_model
from tsn_toolkit.pipeline.founding import strategy_config
from tsn_toolkit.pipeline.summary import versions
from tsn_toolkit.plan.macs import macs_after
from tsn_toolkit.recipe.environment import expand
from tsn_toolkit.recipe.loading import load_recipe
from tsn_toolkit.trainer.norms import reestimate_norms_

RESULTS = Path(__file__).parent / "results"
RECIPE = "cifar100_resnet20"
CRITERIA = "tsn_toolkit.importance"
LEFT_OUT = {"relevance": "without other tasks it ranks units like taylor and weights like fisher"}
SHARES = {"weights": (0.3, 0.5, 0.75, 0.9, 0.95), "units": (0.2, 0.4, 0.6)}
"""Removed shares of all weights and of all units."""
SCOPES = ("global", "layer")
OWN_SCOPES = {"wanda": ("row",)}
"""Rankings of weights that a criterion's paper asks for besides."""
CALIBRATION = 512
TEST = 2000
SCORING_BATCH = 16
NORMS_BATCH = 128

Batches = list[tuple[torch.Tensor, torch.Tensor]]
Masks = Mapping[str, NDArray[np.bool_]]


@dataclass(frozen=True)
class Subject:
    """What is pruned, and the examples: x (n, ...) normalised, y int64 (n,)."""

    model: nn.Module
    graph: ModelGraph
    calibration: tuple[torch.Tensor, torch.Tensor]
    test: tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Setting:
    """One way to prune."""

    target: str
    criterion: str
    scope: str
    removed: float


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--quick", is_flag=True, help="Two criteria, one share each, 128 training and 256 test images: under a minute.")
@click.option("--seeds", default="0,1,2", show_default=True, help="Separated by commas; each draws calibration images and random scores.")
@click.option("--criteria", default="*", show_default=True, help="Names of criteria, separated by commas; may hold * and ?.")
@click.option("--threads", type=click.IntRange(1), default=2, show_default=True)
@click.option("--test-images", type=click.IntRange(100), default=TEST, show_default=True, help="The first of each class in turn; 10000 are all.")
@click.option("--normalisation", type=click.Choice(["none", "mean", "l2"]), default="none", show_default=True, help="Of scores between layers.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS, help="Folder of the results; default: beside this file.")
def main(quick: bool, seeds: str, criteria: str, threads: int, test_images: int, normalisation: str, out: Path) -> None:
    """Measure one-shot pruning without retraining."""
    torch.set_num_threads(threads)
    calibration, test_images = (128, 256) if quick else (CALIBRATION, test_images)
    patterns, shares = ("magnitude,wanda", {"weights": (0.5,), "units": (0.4,)}) if quick else (criteria, SHARES)
    chosen = [name for name in registry.names(CRITERIA) if name not in LEFT_OUT and any(fnmatchcase(name, p) for p in patterns.split(","))]
    if not chosen:
        raise click.BadParameter(f"{criteria!r} matches no criterion; there are {', '.join(registry.names(CRITERIA))}.", param_hint="--criteria")
    flags = ("--quick " if quick else "") + f"--seeds {seeds} --criteria '{criteria}' --threads {threads} --test-images {test_images}"
    command = f"python benchmarks/one_shot.py {flags} --normalisation {normalisation}"
    started, runs = time.monotonic(), []
    for seed in _numbers(seeds):
        try:
            subject = load_subject(seed, calibration, test_images)
        except TsnError as error:
            raise click.ClickException(str(error)) from error
        runs.append({"seed": seed, **measure(subject, chosen, shares, normalisation=normalisation, seed=seed)})
        seconds = round(time.monotonic() - started, 1)
        result: dict[str, Any] = {"command": command, "normalisation": normalisation, "left_out": LEFT_OUT, "runs": runs, "wall_s": seconds}
        result |= {"versions": versions(), "processor": processor(), "source_sha256": source_digest()}
        out.mkdir(parents=True, exist_ok=True)
        write_text(out / "one_shot.json", json.dumps(result, indent=1) + "\n")
        write_text(out / "one_shot.md", render(result))  # after every seed, so that a run that is stopped loses one
        click.echo(f"seed {seed}: written to {out / 'one_shot.md'} after {seconds} s")


def _numbers(seeds: str) -> list[int]:
    try:
        return [int(seed) for seed in seeds.split(",")]
    except ValueError as problem:
        raise click.BadParameter(f"got {seeds!r}; give whole numbers separated by commas, for example 0,1,2.", param_hint="--seeds") from problem


def load_subject(seed: int, calibration: int, test_images: int) -> Subject:
    """The checkpoint of the recipe, `calibration` training images drawn by `seed`, and the first test images of each class in turn.

    Raises:
        TsnError: the recipe, the checkpoint or the data cannot be read.
    """
    recipe = load_recipe(RECIPE, strategy_config=strategy_config)
    model = load_model(recipe.model.factory, expand(recipe.model.checkpoint or ""), sha256=recipe.model.checkpoint_sha256)
    train, test = load_data(recipe.data.model_copy(update={"test_limit": test_images}))
    drawn = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))[:calibration]

    def ready(split: Split) -> tuple[torch.Tensor, torch.Tensor]:
        return normalise(split.x, recipe.data.mean, recipe.data.std).to(memory_format=torch.channels_last), split.y

    chosen, seen = ready(Split(train.x[drawn], train.y[drawn])), ready(test)
    return Subject(model, trace(model, chosen[0][:1]), chosen, seen)


def measure(subject: Subject, criteria: Sequence[str], shares: Mapping[str, Sequence[float]], *, normalisation: str, seed: int) -> dict[str, Any]:
    """All masks first, then every pruned model once on the test images.

    Returns:
        `dense`: accuracy as trained and with norms averaged anew; `rows`: one per setting with accuracy, the share removed and the
        multiply-accumulates that stay (both counted); `scoring_s`: seconds by form and criterion; numbers of images, weights and units.
    """
    masks: list[tuple[Setting, Masks]] = []
    scoring_s: dict[str, dict[str, float]] = {}
    for target, removed in shares.items():
        for name in criteria:
            scores, seconds = timed_scores(subject, target, name, seed)
            if scores:
                scoring_s.setdefault(target, {})[name] = round(seconds, 2)
                masks += [(setting, _masks(subject, setting, scores, normalisation)) for setting in _settings(target, name, removed)]
    rows = [row_of(subject, setting, kept) for setting, kept in masks]
    graph = subject.graph
    return {
        "dense": {"as_trained": _accuracy(subject.model, subject), "norms_averaged": _accuracy(_with_norms(subject.model, subject), subject)},
        "calibration_images": len(subject.calibration[1]),
        "test_images": len(subject.test[1]),
        "weights": sum(int(np.prod(layer.shape)) for layer in graph.layers),
        "units": sum(group.size for group in graph.groups if not group.frozen),
        "scoring_s": scoring_s,
        "rows": rows,
    }


def timed_scores(subject: Subject, target: str, name: str, seed: int) -> tuple[dict[str, NDArray[np.float64]], float]:
    """Scores of one criterion and the seconds they took; no scores where it has no form for the target."""
    module = registry.load(CRITERIA, name)
    form = getattr(module, "score" if target == "units" else "weight_scores", None)
    if form is None:
        return {}, 0.0
    batches = _batches(subject.calibration, SCORING_BATCH)
    start = time.monotonic()
    scores = form(subject.model, subject.graph, batches, functional.cross_entropy, **({"seed": seed} if name == "random" else {}))
    return dict(scores), time.monotonic() - start


def row_of(subject: Subject, setting: Setting, kept: Masks) -> dict[str, Any]:
    """One setting, measured."""
    pruned = _with_norms(prune(subject.model, subject.graph, setting.target, kept), subject)
    entries, alive = sum(mask.size for mask in kept.values()), sum(int(mask.sum()) for mask in kept.values())
    return {
        "target": setting.target,
        "criterion": setting.criterion,
        "scope": setting.scope,
        "removed": setting.removed,
        "removed_counted": round(1 - alive / entries, 5),
        "macs_kept": round(_macs(subject.graph, setting.target, kept) / subject.graph.macs, 5),
        "accuracy": _accuracy(pruned, subject),
    }


def prune(model: nn.Module, graph: ModelGraph, target: str, kept: Masks) -> nn.Module:
    """A copy whose removed weights, or everything that belongs to removed units, are zero."""
    pruned = copy.deepcopy(model)
    if target == "units":
        mask_units_(pruned, graph, kept)
        return pruned
    with torch.no_grad():
        for name, mask in kept.items():
            pruned.get_parameter(f"{name}.weight").mul_(torch.from_numpy(mask))
    return pruned


def _settings(target: str, name: str, removed: Sequence[float]) -> list[Setting]:
    scopes = (*SCOPES, *OWN_SCOPES.get(name, ())) if target == "weights" else SCOPES
    return [Setting(target, name, scope, share) for scope in scopes for share in removed]


def _masks(subject: Subject, setting: Setting, scores: Mapping[str, NDArray[np.float64]], normalisation: str) -> Masks:
    keep = keep_units if setting.target == "units" else keep_weights
    return keep(subject.graph, scores, 1 - setting.removed, scope=setting.scope, normalisation=normalisation)


def _macs(graph: ModelGraph, target: str, kept: Masks) -> float:
    """Multiply-accumulates that stay; those of weights as if zeros cost nothing."""
    if target == "units":
        return macs_after(graph, kept)
    lost = {layer.name: layer.macs * (1 - float(kept[layer.name].mean())) for layer in graph.layers}
    return graph.macs - sum(lost.values())


def _with_norms(model: nn.Module, subject: Subject) -> nn.Module:
    """A copy whose batch norms are averaged anew on the calibration images."""
    fresh = copy.deepcopy(model)
    reestimate_norms_(fresh, [x for x, _ in _batches(subject.calibration, NORMS_BATCH)])
    return fresh


def _accuracy(model: nn.Module, subject: Subject) -> float:
    model.eval()
    with torch.no_grad():
        right = sum(int((model(x).argmax(1) == y).sum()) for x, y in _batches(subject.test, NORMS_BATCH))
    return round(right / len(subject.test[1]), 5)


def _batches(examples: tuple[torch.Tensor, torch.Tensor], size: int) -> Batches:
    return list(zip(torch.split(examples[0], size), torch.split(examples[1], size), strict=True))


def render(result: Mapping[str, Any]) -> str:
    """The page: no number in it is typed by hand."""
    runs = result["runs"]
    first, images = runs[0], runs[0]["test_images"]
    dense, averaged = first["dense"]["as_trained"], spread([run["dense"]["norms_averaged"] for run in runs]).times(100).text(1)
    standard_error = 100 * (dense * (1 - dense) / images) ** 0.5
    lines = [
        "# One-shot pruning without retraining",
        "",
        f"`{result['command']}` ({result['wall_s']} s), recipe `{RECIPE}`, seeds {', '.join(str(run['seed']) for run in runs)}, "
        f"{result['processor']}; " + ", ".join(f"{name} {version}" for name, version in result["versions"].items()) + ".",
        "",
        f"Accuracy in percent on {images} test images, looked at after all masks were made; mean and sample deviation over seeds, which draw the "
        f"calibration images. The test images are the same for all; standard error of one number near the dense one: {standard_error:.1f} points. "
        f"Dense: {100 * dense:.1f} as trained, {averaged} with norms averaged anew.",
        "",
        f"Every criterion scores on the same {first['calibration_images']} training images, and after pruning the batch norms of every model are "
        f"averaged anew on these. Nothing else is fitted. Normalisation of scores between layers: `{result['normalisation']}`. Removed are shares of "
        f"all {first['weights']:,} weights, the head's included, or of all {first['units']:,} units that can go; ranked over all layers "
        "(`global`), within each (`layer`), or within each output's weights (`row`).",
        "",
        *(f"Left out: `{name}`, {why}." for name, why in result["left_out"].items()),
    ]
    for target in dict.fromkeys(row["target"] for row in first["rows"]):
        rows = [row for run in runs for row in run["rows"] if row["target"] == target]
        lines += ["", f"## {target.capitalize()}", "", *_table(rows, "accuracy")]
        if target == "units":
            lines += ["", "Multiply-accumulates that stay, percent:", "", *_table(rows, "macs_kept")]
        seconds = {name: mean([run["scoring_s"][target][name] for run in runs]) for name in first["scoring_s"][target]}
        lines += ["", f"Scoring, seconds: {', '.join(f'{name} {value:.2f}' for name, value in seconds.items())}."]
    return "\n".join(lines) + "\n"


def _table(rows: Sequence[Mapping[str, Any]], key: str) -> list[str]:
    """One line per criterion and scope, one column per share, percent over seeds."""
    shares = sorted({row["removed"] for row in rows})
    cells: dict[tuple[str, str, float], list[float]] = {}
    for row in rows:
        cells.setdefault((row["criterion"], row["scope"], row["removed"]), []).append(row[key])
    lines = ["| criterion | ranking | " + " | ".join(f"{share:.0%} removed" for share in shares) + " |", "|-|-|" + "-|" * len(shares)]
    for criterion, scope in dict.fromkeys((row["criterion"], row["scope"]) for row in rows):
        lines.append(f"| {criterion} | {scope} | " + " | ".join(spread(cells[criterion, scope, share]).times(100).text(1) for share in shares) + " |")
    return lines


if __name__ == "__main__":
    main()
