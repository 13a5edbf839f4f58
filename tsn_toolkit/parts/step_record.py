"""What one post-training step did, layer by layer, and whether it was kept."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any, Literal

from tsn_toolkit.numerics.paired import PairedDifference

Verdict = Literal["kept", "undone", "idle"]


@dataclass(frozen=True)
class LayerChange:
    """One step at one layer.

    Attributes:
        layer: module path, or the two paths of a pair.
        changed: numbers that are others than before.
        total: numbers that could have changed.
        error_before, error_after: |output - float output| / |float output| over the calibration inputs; None where not measured.
        reason: why the step left the layer alone; "" where it did not.
    """

    layer: str
    changed: int = 0
    total: int = 0
    error_before: float | None = None
    error_after: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class StepRecord:
    """One step on one task.

    Attributes:
        step: its name.
        counted: what `changed` and `total` count, for example `codes`.
        verdict: `idle` where nothing changed, `undone` where the validation loss rose.
        layers: one entry per layer that the step looked at.
        loss: paired difference of the validation loss, after - before; None where nothing changed.
        reason: why a step was idle.
        bytes_before, bytes_after: of codes (packed) and masks (entropy); None where the step leaves both their number.
    """

    step: str
    counted: str
    verdict: Verdict
    layers: tuple[LayerChange, ...] = ()
    loss: PairedDifference | None = None
    reason: str = ""
    bytes_before: int | None = None
    bytes_after: int | None = None

    def lines(self) -> list[str]:
        """One line on the step, then one per layer."""
        changed, total = (sum(getattr(layer, key) for layer in self.layers) for key in ("changed", "total"))
        words = f"{self.step}: {self.verdict}, {changed} of {total} {self.counted} changed"
        if self.loss is not None:
            words += f"; validation loss {self.loss} on {self.loss.count} examples"
        if self.bytes_before is not None:
            words += f"; codes and masks {self.bytes_before:,} -> {self.bytes_after:,} bytes"
        return [words + (f"; {self.reason}" if self.reason else ""), *(f"  {layer.layer}: {self._words(layer)}" for layer in self.layers)]

    def as_plain(self) -> dict[str, Any]:
        """The record as JSON values."""
        plain = asdict(self)
        if self.loss is not None and not isfinite(self.loss.standard_error):
            plain["loss"]["standard_error"] = None
        return plain

    def _words(self, layer: LayerChange) -> str:
        if layer.reason:
            return layer.reason
        words = f"{layer.changed} of {layer.total} {self.counted}"
        if layer.error_before is None or layer.error_after is None:
            return words
        return f"{words}, relative output error {layer.error_before:.4g} -> {layer.error_after:.4g}"
