"""One variant in a temporary folder, and everything that was measured of it as one line."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from harness.benchmarks import BENCHMARKS
from harness.dense_runs import dense_numbers
from harness.fresh import FreshProcesses
from harness.operations import OperationCounter
from harness.provenance import cpu_seconds, data_digest, peak_memory_bytes, processor, source_digest
from harness.results import Settings, settings_digest
from harness.store_runs import first_task_trunk_numbers, store_numbers
from harness.variants import Variant
from harness.wsn_fp32 import wsn_fp32_numbers
from tsn_toolkit.pipeline.founding import strategy_config
from tsn_toolkit.pipeline.hooks import Hooks, Say
from tsn_toolkit.pipeline.summary import versions
from tsn_toolkit.recipe.catalogue import find_recipe
from tsn_toolkit.recipe.loading import load_recipe
from tsn_toolkit.recipe.schema import Recipe
from tsn_toolkit.recipe.yaml_document import parse_yaml


def settings_of(benchmark: str, variant: Variant) -> Settings:
    """What a run of the variant has today."""
    row = BENCHMARKS[benchmark]
    recipe = parse_yaml(find_recipe(row.recipe).read_text(encoding="utf-8")).data
    options = strategy_options(recipe, row.settings(variant)) if variant.runs_strategy else None
    return Settings(settings_digest(recipe, row.settings(variant)), options)


def strategy_options(recipe: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Options of the strategy with all its defaults, from a recipe's keys and `key=value` texts; needs no data and no environment."""
    place = {"strategy": deepcopy(recipe["strategy"])}
    for override in overrides:
        key, _, text = override.partition("=")
        *path, last = key.split(".")
        if [*path, last][0] == "strategy":
            section = place
            for part in path:
                section = section.setdefault(part, {})
            section[last] = parse_yaml(text).data
    chosen = place["strategy"]
    options: dict[str, Any] = strategy_config(chosen["name"])(**chosen.get("options", {})).model_dump(mode="json")
    return options


def measure_variant(benchmark: str, variant: Variant, *, seed: int, threads: int, command: str, say: Say) -> dict[str, Any]:
    """Runs one variant.

    Args:
        benchmark: its name.
        variant: what is otherwise.
        seed: of the recipe.
        threads: of torch, here and in the processes that measure.
        command: command line that does this again.
        say: called with news.

    Returns:
        benchmark, variant, overrides, seed, threads, command, settings_sha256; `strategy_options` (with every default; None where no strategy runs);
        `tasks`: name, test and validation accuracy, bytes of each one's part; `isolation` (`exact`, `none`, or `separate` where every task has a
        network of its own); `acc`, `bwt`, `fwt`, `max_forgetting`, `R` (None where not defined: separate networks have nothing to forget),
        `validation` (mean accuracy); `store_bytes`, `superseded_bytes`, `breakdown` (bytes by kind), `entropy_bytes`, `denominators` (bytes);
        `training_flops`; `training_s` and `training_cpu_s` (seconds by phase, of the clock and of the processor), `wall_s`, `cpu_s`,
        `peak_memory_bytes`; `versions`, `processor`, `source_sha256`, `data_sha256`.
    """
    torch.set_num_threads(threads)
    os.environ["OMP_NUM_THREADS"] = str(threads)
    make_recipe, settings = partial(_recipe, benchmark, seed), settings_of(benchmark, variant)
    with FreshProcesses() as fresh, OperationCounter() as counter, tempfile.TemporaryDirectory(prefix="tsn-benchmark-") as name:
        clock, started = PhaseClock(), time.monotonic()
        hooks = Hooks(say=say, progress=clock, measure=fresh.measure)
        numbers = _MEASURES[variant.kind](make_recipe, variant, Path(name), hooks)
        wall = time.monotonic() - started
    return {
        "benchmark": benchmark,
        "variant": variant.name,
        "overrides": list(BENCHMARKS[benchmark].settings(variant)),
        "seed": seed,
        "threads": threads,
        "command": command,
        "settings_sha256": settings.digest,
        "strategy_options": settings.strategy_options,
        "training_flops": counter.flops,
        **numbers,
        "training_s": {phase: round(seconds, 3) for phase, seconds in clock.seconds.items()},
        "training_cpu_s": {phase: round(seconds, 3) for phase, seconds in clock.processor_seconds.items()},
        "wall_s": round(wall, 3),
        "cpu_s": round(cpu_seconds(), 3),
        "peak_memory_bytes": peak_memory_bytes(),
        "versions": versions(),
        "processor": processor(),
        "source_sha256": source_digest(),
        "data_sha256": data_digest(make_recipe(())),
    }


_MEASURES = {"store": store_numbers, "dense": dense_numbers, "first_task_trunk": first_task_trunk_numbers, "wsn_fp32": wsn_fp32_numbers}


def _recipe(benchmark: str, seed: int, overrides: Sequence[str]) -> Recipe:
    row = BENCHMARKS[benchmark]
    return load_recipe(row.recipe, overrides=[*row.overrides, *overrides, f"seed={seed}"], strategy_config=strategy_config)


@dataclass
class PhaseClock:
    """A progress hook that adds up the time between the first and the last step of every phase, validation between epochs included.

    Attributes:
        seconds: by phase, of the clock.
        processor_seconds: by phase, that all threads of this process computed.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    processor_seconds: dict[str, float] = field(default_factory=dict)
    _last: tuple[float, float] = (0.0, 0.0)

    def __call__(self, phase: str, done: int, total: int) -> None:
        now = time.monotonic(), time.process_time()
        if done > 1:
            for sums, end, start in zip((self.seconds, self.processor_seconds), now, self._last, strict=True):
                sums[phase] = sums.get(phase, 0.0) + end - start
        self._last = now
