"""A run of five tasks as the pipeline writes it, with numbers chosen so that sums and ratios can be checked by hand."""

from typing import Any

import pytest

TASKS = ("digits-0-1", "digits-2-3", "digits-4-5", "digits-6-7", "digits-8-9")
TARGET = "cpu_onnxruntime"
STORE = (0.9861, 0.9722, 0.9861, 1.0, 0.9437)
DELTAS = (5210, 3120, 2987, 2890, 2755)


def task(position: int) -> dict[str, Any]:
    """One entry of `summary["tasks"]`."""
    exported = {0: 0.9861, 1: 0.9722, 2: 0.9861, 3: 1.0, 4: 0.9296}[position]
    return {
        "name": TASKS[position],
        "accuracy": {"dense": (1.0, 0.9861, 0.9861, 1.0, 0.9577)[position], "store": STORE[position], "exported": {TARGET: exported}},
        "bytes": {"delta": DELTAS[position], "exported": {TARGET: 21345 + position}, "dense_fp32": 152040},
        "macs": {"dense": 1236992, "extracted": 691200 - 4000 * position},
        "latency_ms": {
            TARGET: {
                "threads": 1,
                "batch_1": {"median": 0.0213 + 0.01 * (position == 3), "q1": 0.0209, "q3": 0.0221, "dense_fp32_median": 0.0298},
                "batch_32": {"median": 0.243, "q1": 0.239, "q3": 0.251, "dense_fp32_median": 0.412},
            }
        },
    }


def sharing() -> dict[str, Any]:
    """Each task reads as much of every earlier owner, and half of what any other task reads."""
    owners = [[1 / (row + 1) if owner <= row else 0.0 for owner in range(5)] for row in range(5)]
    others = [[1.0 if row == column else 0.5 for column in range(5)] for row in range(5)]
    return {
        "tasks": list(TASKS),
        "owners": list(TASKS),
        "by_owner": owners,
        "with_task": others,
        "layers": {"conv1": {"used": [0.3125] * 5, "exclusive": [0.0625] * 5}},
        "units": {"conv1": {"size": 16, "kept": [9] * 5, "exclusive": [3] * 5}},
    }


@pytest.fixture
def summary() -> dict[str, Any]:
    return {
        "dense_reference": "one dense fp32 network per task, trained from scratch on that task alone",
        "tasks": [task(position) for position in range(5)],
        "R": [[STORE[i] if i <= t else None for i in range(5)] for t in range(5)],
        "acc": 0.97762,
        "bwt": 0.0,
        "fwt": None,
        "store_bytes": 17885,
        "denominators": {"dense_fp32": 154112, "separate_fp32": 760200, "separate_int8": 201320, "separate_encoded": 24871},
        "seed": 7,
        "versions": {"python": "3.11.7", "torch": "2.13.0", "onnxruntime": "1.31.1", "tsn_toolkit": "0.1.0"},
        "warnings": ["digits-6-7 on cpu_onnxruntime: batch 1 takes 0.0313 ms, dense fp32 0.0298 ms"],
    }


@pytest.fixture
def inspection() -> dict[str, Any]:
    def part(path: str, size_bytes: int, **breakdown: int) -> dict[str, Any]:
        kinds = ("values", "masks", "codebooks", "scales", "norms", "biases", "heads", "metadata")
        return {"path": path, "bytes": size_bytes, "breakdown": {kind: breakdown.get(kind, 0) for kind in kinds}}

    parts = [part("manifest.json", 923, metadata=923)]
    for position, (name, delta) in enumerate(zip(TASKS, DELTAS, strict=True)):
        masks, values = delta // 3, delta // 6
        rest = delta - masks - values - 48 - 176 - 352 - 290
        path = f"tasks/{position:03d}-{name}.safetensors"
        parts.append(part(path, delta, masks=masks, values=values, codebooks=48, scales=176, norms=352, heads=290, metadata=rest))
    return {
        "parts": parts,
        "total_bytes": 17885,
        "tasks": [{"name": name, "parent": TASKS[n - 1] if n else "trunk", "marginal_bytes": DELTAS[n]} for n, name in enumerate(TASKS)],
        "entropy_bytes": 11021,
        "sharing": sharing(),
    }


@pytest.fixture
def parity() -> dict[str, dict[str, dict[str, Any]]]:
    measured = {"output_steps": 0.0, "top1_agreement": 1.0, "sqnr_db": 31.42, "samples": 72, "failures": [], "integer_mac_share": 0.9731}
    found: dict[str, dict[str, dict[str, Any]]] = {name: {TARGET: dict(measured)} for name in TASKS}
    failure = "top-1 agreement is 0.9577 on 71 samples; it must be at least 0.98"
    found[TASKS[4]][TARGET].update(top1_agreement=0.9577, samples=71, failures=[failure])
    return found
