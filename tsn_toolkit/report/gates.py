"""What both gates measured for each package."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class GateRow:
    """One package; None where a number was not measured.

    Attributes:
        output_steps: gate (a): largest |artefact - integer reference| in output steps.
        tie_steps: the most that values at the edge of rounding may cost an example beyond the target's steps; 0 where none is beyond.
        top1_agreement: gate (b): fraction of samples with the same argmax as the store's model.
        sqnr_db: gate (b): signal to quantization noise of the logits.
        samples: held-out samples seen.
        integer_mac_share: fraction of MACs that the runtime ran in integer kernels.
        passed: None when it is not known.
        failures: one sentence per failed condition.
    """

    task: str
    target: str
    output_steps: float | None
    tie_steps: float
    top1_agreement: float | None
    sqnr_db: float | None
    samples: int | None
    integer_mac_share: float | None
    passed: bool | None
    failures: tuple[str, ...]


def gate_rows(parity: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> tuple[GateRow, ...]:
    """One row per task and target, in the order given.

    Args:
        parity: task -> target -> what `parity.json` holds; `passed` is derived from `failures` where it is missing.
    """
    return tuple(_row(task, target, measured) for task, targets in parity.items() for target, measured in targets.items())


def _row(task: str, target: str, measured: Mapping[str, Any]) -> GateRow:
    failures = tuple(str(sentence) for sentence in measured.get("failures") or ())
    passed = measured.get("passed", not failures if "failures" in measured else None)
    return GateRow(
        task=task,
        target=target,
        output_steps=measured.get("output_steps"),
        tie_steps=float(measured.get("tie_steps") or 0.0),
        top1_agreement=measured.get("top1_agreement"),
        sqnr_db=measured.get("sqnr_db"),
        samples=measured.get("samples"),
        integer_mac_share=measured.get("integer_mac_share"),
        passed=passed,
        failures=failures,
    )
