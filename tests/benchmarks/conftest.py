"""Makes the harness of the benchmarks importable; made-up lines."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

KINDS = ("values", "masks", "codebooks", "scales", "norms", "biases", "heads", "metadata")


@pytest.fixture
def make_line() -> Callable[..., dict[str, Any]]:
    """A line as `measured.py` makes it, of two tasks; everything may be set otherwise."""

    def line(variant: str, seed: int = 0, *, acc: float = 0.7, store_bytes: int = 100_000, dense: bool = False, **changes: Any) -> dict[str, Any]:
        store = {
            "bwt": 0.0,
            "R": [[acc, None], [acc, acc]],
            "breakdown": dict.fromkeys(KINDS, store_bytes // len(KINDS)),
            "entropy_bytes": 12_345.0,
            "denominators": {"dense_fp32": 4_000_000, "separate_fp32": 8_000_000},
        }
        files = {"bwt": None, "R": None, "breakdown": None, "entropy_bytes": None, "denominators": {"dense_fp32": 4_000_000}}
        return {
            "variant": variant,
            "seed": seed,
            "threads": 1,
            "settings_sha256": "settings",
            "data_sha256": "data",
            "source_sha256": "source",
            "versions": {"torch": "2.0"},
            "processor": "a processor",
            "tasks": [{"name": "a", "bytes": 3 * store_bytes // 4}, {"name": "b", "bytes": store_bytes // 4}],
            "acc": acc,
            "validation": acc + 0.01,
            "store_bytes": store_bytes,
            "training_s": {"scores": 10.0, "codes": 20.0},
            "training_cpu_s": {"scores": 9.0, "codes": 16.0},
            "wall_s": 45.0,
            "cpu_s": 50.0,
            "peak_memory_bytes": 500_000_000,
            **(files if dense else store),
            **changes,
        }

    return line
