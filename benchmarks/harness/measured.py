"""One variant through the real pipeline in a temporary folder, and everything that was measured of it as one line."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from harness.provenance import cpu_seconds, data_digest, peak_memory_bytes, processor, source_digest
from harness.results import settings_digest
from harness.variants import FIRST_TASK_NETWORK, Variant
from tsn_toolkit.bench.denominators import dense_state
from tsn_toolkit.contracts import TaskData
from tsn_toolkit.data.splits import load_task, task_names
from tsn_toolkit.extract import extract
from tsn_toolkit.pipeline.founding import found_store, strategy_config
from tsn_toolkit.pipeline.hooks import Hooks, Say
from tsn_toolkit.pipeline.references import dense_reference
from tsn_toolkit.pipeline.stages import run
from tsn_toolkit.pipeline.summary import versions
from tsn_toolkit.recipe.catalogue import find_recipe
from tsn_toolkit.recipe.loading import load_recipe
from tsn_toolkit.recipe.schema import Recipe
from tsn_toolkit.recipe.yaml_document import parse_yaml
from tsn_toolkit.revisions import answer
from tsn_toolkit.run_folder import RunFolder
from tsn_toolkit.store.inspect import KINDS, inspect_store
from tsn_toolkit.store.store import Store
from tsn_toolkit.trainer.loop import evaluate
from tsn_toolkit.workshop import Workshop, workshop_of_store

CPU = torch.device("cpu")


def settings_of(benchmark: str, variant: Variant) -> str:
    """Digest of the settings that a run of the variant has today."""
    return settings_digest(parse_yaml(find_recipe(benchmark).read_text(encoding="utf-8")).data, variant.overrides)


def measure_variant(benchmark: str, variant: Variant, *, seed: int, threads: int, command: str, say: Say) -> dict[str, Any]:
    """Runs one variant.

    Args:
        benchmark: name of the recipe.
        variant: what is otherwise.
        seed: of the recipe.
        threads: of torch, here and in the processes that measure.
        command: command line that does this again.
        say: called with news.

    Returns:
        benchmark, variant, overrides, seed, threads, command, settings_sha256; `tasks`: name, test and validation accuracy, marginal bytes of each;
        `acc`, `bwt`, `R` (bwt and R are None for separate networks: there is nothing to forget), `validation` (mean accuracy); `store_bytes`,
        `breakdown` (bytes by kind), `entropy_bytes`, `denominators` (bytes); `training_s` (seconds by phase), `wall_s`, `cpu_s`, `peak_memory_bytes`;
        `versions`, `processor`, `source_sha256`, `data_sha256`.
    """
    torch.set_num_threads(threads)
    os.environ["OMP_NUM_THREADS"] = str(threads)
    clock, started = PhaseClock(), time.monotonic()
    hooks = Hooks(say=say, progress=clock)
    with tempfile.TemporaryDirectory(prefix="tsn-benchmark-") as name:
        numbers = _MEASURES[variant.kind](benchmark, variant, seed, Path(name), hooks)
    return {
        "benchmark": benchmark,
        "variant": variant.name,
        "overrides": list(variant.overrides),
        "seed": seed,
        "threads": threads,
        "command": command,
        "settings_sha256": settings_of(benchmark, variant),
        **numbers,
        "training_s": {phase: round(seconds, 3) for phase, seconds in clock.seconds.items()},
        "wall_s": round(time.monotonic() - started, 3),
        "cpu_s": round(cpu_seconds(), 3),
        "peak_memory_bytes": peak_memory_bytes(),
        "versions": versions(),
        "processor": processor(),
        "source_sha256": source_digest(),
        "data_sha256": data_digest(_recipe(benchmark, (), seed).data),
    }


@dataclass
class PhaseClock:
    """A progress hook that adds up the seconds between the first and the last step of every phase, validation between epochs included."""

    seconds: dict[str, float] = field(default_factory=dict)
    _last: float = 0.0

    def __call__(self, phase: str, done: int, total: int) -> None:
        now = time.monotonic()
        if done > 1:
            self.seconds[phase] = self.seconds.get(phase, 0.0) + now - self._last
        self._last = now


def _store_numbers(benchmark: str, variant: Variant, seed: int, place: Path, hooks: Hooks) -> dict[str, Any]:
    """A whole run."""
    recipe = _recipe(benchmark, ("reference.dense=none", *variant.overrides), seed)
    summary = run(recipe, place / "run", hooks)
    store = Store.open(RunFolder(place / "run").store)
    inspection = inspect_store(store)
    shop = workshop_of_store(store)
    validation = [_store_accuracy(store, shop, load_task(recipe, index)) for index in range(len(store.entries))]
    rows = zip(inspection["tasks"], summary["R"][-1], validation, strict=True)
    return {
        "tasks": [{"name": task["name"], "test": test, "validation": held, "bytes": task["marginal_bytes"]} for task, test, held in rows],
        "acc": summary["acc"],
        "bwt": summary["bwt"],
        "R": summary["R"],
        "validation": _mean(validation),
        "store_bytes": summary["store_bytes"],
        "breakdown": {kind: sum(part["breakdown"][kind] for part in inspection["parts"]) for kind in KINDS},
        "entropy_bytes": inspection["entropy_bytes"],
        "denominators": summary["denominators"],
    }


def _store_accuracy(store: Store, shop: Workshop, data: TaskData) -> float:
    """Accuracy of the stored task on its validation split."""
    found = answer(store, data.name)
    data = found.as_logits(data)
    model = extract(shop.factory, shop.graph, found.weights).model
    return evaluate(model, data.validation, data, CPU)[1]


def _dense_numbers(benchmark: str, variant: Variant, seed: int, place: Path, hooks: Hooks) -> dict[str, Any]:
    """The dense references alone; bytes are those of their files."""
    recipe = _recipe(benchmark, variant.overrides, seed)
    folder = RunFolder(place / "run")
    store = found_store(recipe, folder, [], hooks)
    shop = workshop_of_store(store)
    rows: list[dict[str, Any]] = []
    heads: list[int] = []
    for index, name in enumerate(task_names(recipe)):
        data = load_task(recipe, index)
        model, test = dense_reference(recipe, folder, shop, store, data, index, hooks)
        validation = evaluate(model, data.validation, data, CPU)[1]
        rows.append({"name": name, "test": test, "validation": validation, "bytes": folder.reference(name).stat().st_size})
        heads.append(len(data.classes))
    save_file(dense_state(shop.factory(), shop.graph.head, heads), place / "one.safetensors")
    return {
        "tasks": rows,
        "acc": _mean([row["test"] for row in rows]),
        "bwt": None,
        "R": None,
        "validation": _mean([row["validation"] for row in rows]),
        "store_bytes": sum(row["bytes"] for row in rows),
        "breakdown": None,
        "entropy_bytes": None,
        "denominators": {"dense_fp32": (place / "one.safetensors").stat().st_size},
    }


def _first_task_trunk_numbers(benchmark: str, variant: Variant, seed: int, place: Path, hooks: Hooks) -> dict[str, Any]:
    """A run over the first task's dense network."""
    cold = _recipe(benchmark, ("reference.dense=separate",), seed)
    folder, data = RunFolder(place / "first"), load_task(cold, 0)
    store = found_store(cold, folder, [], hooks)
    dense_reference(cold, folder, workshop_of_store(store), store, data, 0, hooks)
    with _environment(FIRST_TASK_NETWORK, str(folder.reference(data.name))):
        return _store_numbers(benchmark, variant, seed, place, hooks)


_MEASURES = {"store": _store_numbers, "dense": _dense_numbers, "first_task_trunk": _first_task_trunk_numbers}


def _recipe(benchmark: str, overrides: Sequence[str], seed: int) -> Recipe:
    return load_recipe(benchmark, overrides=[*overrides, f"seed={seed}"], strategy_config=strategy_config)


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    """Sets a variable for this process and those that it starts."""
    assert name not in os.environ, name
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
