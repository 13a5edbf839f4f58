"""One variant in a temporary folder, and everything that was measured of it as one line."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
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
from harness.results import settings_digest
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


def settings_of(benchmark: str, variant: Variant) -> str:
    """Digest of the settings that a run of the variant has today."""
    row = BENCHMARKS[benchmark]
    return settings_digest(parse_yaml(find_recipe(row.recipe).read_text(encoding="utf-8")).data, row.settings(variant))


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
        benchmark, variant, overrides, seed, threads, command, settings_sha256; `tasks`: name, test and validation accuracy, bytes of each one's part;
        `isolation` (`exact`, `none`, or `separate` where every task has a network of its own); `acc`, `bwt`, `fwt`, `max_forgetting`, `R` (None where
        not defined: separate networks have nothing to forget), `validation` (mean accuracy); `store_bytes`, `superseded_bytes`, `breakdown` (bytes by
        kind), `entropy_bytes`, `denominators` (bytes); `training_flops`; `training_s` (seconds by phase), `wall_s`, `cpu_s`, `peak_memory_bytes`;
        `versions`, `processor`, `source_sha256`, `data_sha256`.
    """
    torch.set_num_threads(threads)
    os.environ["OMP_NUM_THREADS"] = str(threads)
    make_recipe = partial(_recipe, benchmark, seed)
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
        "settings_sha256": settings_of(benchmark, variant),
        "training_flops": counter.flops,
        **numbers,
        "training_s": {phase: round(seconds, 3) for phase, seconds in clock.seconds.items()},
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
    """A progress hook that adds up the seconds between the first and the last step of every phase, validation between epochs included."""

    seconds: dict[str, float] = field(default_factory=dict)
    _last: float = 0.0

    def __call__(self, phase: str, done: int, total: int) -> None:
        now = time.monotonic()
        if done > 1:
            self.seconds[phase] = self.seconds.get(phase, 0.0) + now - self._last
        self._last = now
