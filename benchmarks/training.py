"""What a search step of `tsn` costs beside a plain dense step: python benchmarks/training.py [--network NAME ...] [--turns N] [--out FOLDER].

Both train the same network through the same loop (`trainer/loop.py::fit`) with the same optimizer, random images of 3x32x32, batch 256, one thread,
taking turns in one process. The `tsn` network is that of a child: half of its slots are inherited, a third of these in use by the parent, density
.1, scores and masks as `trainer/search.py` learns and refreshes them by default. A step is forward, backward, optimizer and, when due, the refresh
of the masks; making the batch is not counted. Numbers are processor time, which other work on a machine disturbs less than the clock.

Then, what the default schedule of scores and masks costs in accuracy: `recipes/permuted_digits.yaml` with exact scores and masks at every step and
with the default; validation data only. Writes training.json and training.md; rows that are not measured this time stay.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from harness.provenance import processor, source_digest
from speed.resnet18 import ResNet18
from torch import nn

from tsn_toolkit.contracts import Split, TaskData
from tsn_toolkit.data.splits import load_task
from tsn_toolkit.files import read_json, write_json, write_text
from tsn_toolkit.models.alexnet_cifar import alexnet_cifar
from tsn_toolkit.models.mlp import mlp
from tsn_toolkit.parts.own_slots import refresh_masks_, start_scores_, update_scores_every_
from tsn_toolkit.parts.subnet_weight import SubnetWeight, wrapped
from tsn_toolkit.parts.wrapping import attach_
from tsn_toolkit.pipeline.founding import found_store, strategy_config
from tsn_toolkit.pipeline.hooks import Hooks
from tsn_toolkit.pipeline.learning import learn_and_commit
from tsn_toolkit.pipeline.summary import versions
from tsn_toolkit.recipe.loading import load_recipe
from tsn_toolkit.run_folder import RunFolder
from tsn_toolkit.store.store import Store
from tsn_toolkit.strategies.tsn import Config
from tsn_toolkit.trainer.loop import Phase, TrainingSettings, fit
from tsn_toolkit.trainer.training_hooks import TrainingHooks
from tsn_toolkit.workshop import workshop_of_store

RESULTS = Path(__file__).parent / "results"
BATCH, CLASSES, IMAGE = 256, 10, (3, 32, 32)
DENSITY, INHERITED, USED = 0.1, 0.5, 1 / 3
HEADS = ("head", "linear")
DEFAULT = Config()


def resnet18() -> nn.Module:
    """The ResNet-18 with the stem that small images ask for: 3x3, stride 1, no pool."""
    model = ResNet18(CLASSES)
    model.conv1, model.pool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    return model


NETWORKS: Mapping[str, tuple[Callable[[], nn.Module], int]] = {
    "mlp 3072-512-512": (lambda: mlp((3072, 512, 512), CLASSES), 11),
    "alexnet_cifar": (lambda: alexnet_cifar(CLASSES), 6),
    "resnet18": (resnet18, 6),
}
"""Network -> its factory, and steps of one turn, the first of which is not counted."""
KEYS = ("network", "optimizer", "score_every")
SCHEDULES: Mapping[str, tuple[str, ...]] = {
    "exact at every step": ("strategy.options.refresh_every=1", "strategy.options.score_every=1"),
    "default": (),
}


def measure_step(make: Callable[[], nn.Module], optimizer: str, turns: int, steps: int, score_every: int) -> dict[str, Any]:
    """Milliseconds of processor time per step, dense and `tsn`, and the median ratio over the turns."""
    torch.manual_seed(0)
    dense, subnet = make(), wrap_child_(make())
    data = random_task(steps)
    times = [(_turn(dense, data, optimizer, 0), _turn(subnet, data, optimizer, score_every)) for _ in range(turns)]
    plain, searched = 1000 * np.array(times).T
    return {
        "weights": sum(latent.numel() for _, _, latent in wrapped(subnet)),
        "dense_ms": round(float(np.median(plain)), 2),
        "tsn_ms": round(float(np.median(searched)), 2),
        "ratio": round(float(np.median(searched / plain)), 3),
        "ratios": [round(float(value), 3) for value in searched / plain],
    }


def wrap_child_(model: nn.Module) -> nn.Module:
    """Wraps every layer but the head as that of a task with a parent, in place, scores started."""
    generator = torch.Generator().manual_seed(0)
    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear | nn.Conv2d) and name not in HEADS]
    for _, module in layers:
        weight = module.weight.detach()
        present = torch.rand(weight.shape, generator=generator) < INHERITED
        scale = weight.flatten(1).abs().amax(1) / 100
        q = (weight / scale.view(-1, *[1] * (weight.dim() - 1))).round() * present
        wrapper = SubnetWeight(q, present, scale, rule="select", density=DENSITY, bit_width=4, max_code=127)
        wrapper.preferred.copy_(present & (torch.rand(weight.shape, generator=generator) < USED))
        attach_(module, wrapper)
    start_scores_(model)
    return model


def random_task(steps: int) -> TaskData:
    """As many random images as `steps` steps take."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randint(0, 256, (BATCH * steps, *IMAGE), dtype=torch.uint8, generator=generator)
    y = torch.randint(0, CLASSES, (BATCH * steps,), generator=generator)
    none = Split(x[:0], y[:0])
    return TaskData("random", tuple(range(CLASSES)), Split(x, y), none, none, (0.5,) * 3, (0.25,) * 3)


def _turn(model: nn.Module, data: TaskData, optimizer: str, score_every: int) -> float:
    """Seconds of processor time of one step, mean over the turn; `score_every` 0: a plain dense step."""
    started, seconds = [0.0], []
    before = model.register_forward_pre_hook(lambda *_: started.__setitem__(0, time.process_time()))

    def after(step: int) -> None:
        if score_every:
            if (step + 1) % DEFAULT.refresh_every == 0:
                refresh_masks_(model)
            update_scores_every_(model, score_every, step + 1)
        seconds.append(time.process_time() - started[0])

    scores = [wrapper.score for _, wrapper, _ in wrapped(model)]
    chosen = {id(score) for score in scores}
    groups: list[dict[str, Any]] = [{"params": [p for p in model.parameters() if id(p) not in chosen]}]
    if scores:
        update_scores_every_(model, score_every, 0)
        groups.append({"params": scores, "weight_decay": 0.0})
    settings = TrainingSettings(BATCH, optimizer, 0.9, 5e-4, (), 0.0, torch.device("cpu"), torch.float32)  # type: ignore[arg-type]
    hooks = TrainingHooks(after_step=after)
    fit(model, data, Phase("turn", 1, 0.01), settings, parameters=groups, generator=torch.Generator().manual_seed(2), hooks=hooks)
    before.remove()
    return float(np.mean(seconds[1:]))


def measure_accuracy(schedule: tuple[str, ...], seed: int, tasks: int) -> dict[str, float]:
    """Means over the tasks of validation accuracy and loss, and the bytes of all their parts."""
    overrides = [f"seed={seed}", f"tasks.count={tasks}", "reference.dense=none", *schedule]
    recipe = load_recipe("permuted_digits", overrides=overrides, strategy_config=strategy_config)
    hooks = Hooks(say=lambda line: None)
    with tempfile.TemporaryDirectory() as place:
        folder = RunFolder(Path(place) / "run")
        store = found_store(recipe, folder, [], hooks)
        shop = workshop_of_store(store)
        for index in range(tasks):
            learn_and_commit(recipe, store, shop, load_task(recipe, index), index, hooks)
            store = Store.open(folder.store)
        found = [store.validation(entry.name) for entry in store.entries]
        means = {key: float(np.mean([task[key] for task in found])) for key in ("accuracy", "loss")}
        return {**means, "bytes": sum(entry.size_bytes for entry in store.entries)}


def page(result: Mapping[str, Any]) -> str:
    """The results as markdown."""
    lines = [
        "# A search step of `tsn` beside a plain dense step", "",
        f"One thread, batch {BATCH}; milliseconds of processor time, medians over the turns.", "",
        "| network | weights | optimizer | scores updated | turns | dense | tsn | ratio |", "|-|-|-|-|-|-|-|-|",
    ]  # fmt: skip
    for row in result["steps"]:
        every = "at every step" if row["score_every"] == 1 else f"every {row['score_every']} steps"
        numbers = f"{row['dense_ms']} | {row['tsn_ms']} | {row['ratio']:.2f}"
        lines.append(f"| {row['network']} | {row['weights']:,} | {row['optimizer']} | {every} | {len(row['ratios'])} | {numbers} |")
    if result["accuracy"]:
        some = next(iter(result["accuracy"].values()))
        lines += ["", f"Permuted digits, {some[0]['tasks']} tasks, seeds {', '.join(str(row['seed']) for row in some)}, validation data:", ""]
        lines += ["| scores and masks | accuracy % | deviation over seeds | loss | bytes of the tasks |", "|-|-|-|-|-|"]
        for name, rows in result["accuracy"].items():
            accuracy = 100 * np.array([row["accuracy"] for row in rows])
            loss, size = (np.mean([row[key] for row in rows]) for key in ("loss", "bytes"))
            spread = accuracy.std(ddof=1) if len(rows) > 1 else float("nan")
            lines.append(f"| {name} | {accuracy.mean():.2f} | {spread:.2f} | {loss:.4f} | {size:,.0f} |")
    return "\n".join(lines) + "\n"


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--network", "networks", multiple=True, type=click.Choice(list(NETWORKS)), default=tuple(NETWORKS), help="May be repeated.")
@click.option("--optimizer", "optimizers", multiple=True, type=click.Choice(["sgd", "adam"]), default=("sgd", "adam"), help="May be repeated.")
@click.option("--score-every", "schedules", multiple=True, type=click.IntRange(1), default=(1, DEFAULT.score_every), show_default=True)
@click.option("--turns", type=click.IntRange(1), default=5, show_default=True, help="Of dense and tsn, one after the other.")
@click.option("--seeds", default="0,1,2", show_default=True, help="Of the comparison of accuracy; empty leaves it out.")
@click.option("--tasks", type=click.IntRange(1), default=3, show_default=True, help="Of the comparison of accuracy.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS, show_default=True, help="Folder to write into.")
def main(networks: tuple[str, ...], optimizers: tuple[str, ...], schedules: tuple[int, ...], turns: int, seeds: str, tasks: int, out: Path) -> None:
    """Measures, prints and writes; rows that are not measured this time stay as the files have them."""
    torch.set_num_threads(1)
    file, made = out / "training.json", {"processor": processor(), "versions": versions(), "source_sha256": source_digest()}
    kept = read_json(file) if file.is_file() else {"steps": [], "accuracy": {}}
    rows = {tuple(row[key] for key in KEYS): row for row in kept["steps"]}
    for key in product(networks, optimizers, schedules):
        make, steps = NETWORKS[key[0]]
        rows[key] = {**dict(zip(KEYS, key, strict=True)), **measure_step(make, key[1], turns, steps, key[2]), **made}
        click.echo(json.dumps(rows[key]), err=True)
    accuracy, numbers = kept["accuracy"], [int(seed) for seed in seeds.split(",") if seed]
    for name, schedule in SCHEDULES.items() if numbers else ():
        accuracy[name] = [{"seed": seed, "tasks": tasks, **measure_accuracy(schedule, seed, tasks), **made} for seed in numbers]
    result = {"steps": [rows[key] for key in sorted(rows)], "accuracy": accuracy}
    write_json(file, result)
    write_text(out / "training.md", page(result))
    click.echo(page(result))


if __name__ == "__main__":
    main()
